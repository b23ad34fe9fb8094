"""Kernels by which the device decides loops and branches while a CUDA graph stands for the program.

Each of these loops and branches has a cell in device memory: the trips that were made, the most that there may be, and
whether it goes on. What is set or copied by a loop's counter reads it there. With a graph, kernels also tell the graph
(`cudaGraphSetConditional`, which the driver links in when it loads the code); without one, the host reads the cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs
from tvm import tirx

from tilewright.errors import InputError
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Expr, substitute, variables
from tilewright.ir.graphs import graph_control
from tilewright.ir.ops import value
from tilewright.ir.program import HostCopy, HostIf, HostLoop, HostSet, HostStep, Program
from tilewright.planning.storage import byte_size
from tilewright_backends.build.cuda.compile import Compiled, compile_source, compiler_version
from tilewright_backends.build.cuda.source import DeviceKernel, KernelShell, cuda_source
from tilewright_backends.emit.gpu import copy
from tilewright_backends.emit.gpu.body import i32

GOES_ON = 16
"""Byte of a cell at which stands whether it goes on."""
_MOST = (1 << 31) - 1
_OLDEST = (12, 4)
"""The CUDA that came with `cudaGraphSetConditional` for loops and branches."""

_CELL, _LIMIT, _CONDITION = value("cell", "int64", (4,)), value("limit", "int64", ()), value("condition", "bool", ())

PREAMBLE = """\
extern "C" __device__ void cudaGraphSetConditional(unsigned long long handle, unsigned int value);
static __device__ void tw_graph_decided(long long* cell, int going, long long captured, long long handle) {
  cell[2] = going;
  if (captured) cudaGraphSetConditional(handle, going);
}
"""
"""What the source of these kernels needs in front."""

_BEGIN = """\
extern "C" __global__ void __launch_bounds__(1) tw_graph_begin(long long* cell, const long long* limit,
    const signed char* condition, long long trips, long long captured, long long handle) {
  if (limit && *limit < trips) trips = *limit;
  cell[0] = 0;
  cell[1] = trips;
  tw_graph_decided(cell, trips > 0 && (!condition || *condition), captured, handle);
}
"""
_NEXT = """\
extern "C" __global__ void __launch_bounds__(1) tw_graph_next(long long* cell, const signed char* condition,
    long long captured, long long handle) {
  const long long trips = cell[0] + 1;
  cell[0] = trips;
  tw_graph_decided(cell, trips < cell[1] && (!condition || *condition), captured, handle);
}
"""
_BRANCH = """\
extern "C" __global__ void __launch_bounds__(1) tw_graph_branch(long long* cell, const signed char* condition,
    long long wanted, long long captured, long long handle) {
  tw_graph_decided(cell, (*condition != 0) == wanted, captured, handle);
}
"""

BEGIN = DeviceKernel("tw_graph_begin", (_CELL, _LIMIT, _CONDITION), 1, 1, 0, False, None, numbers=3, source=_BEGIN)
NEXT = DeviceKernel("tw_graph_next", (_CELL, _CONDITION), 1, 1, 0, False, None, numbers=2, source=_NEXT)
BRANCH = DeviceKernel("tw_graph_branch", (_CELL, _CONDITION), 1, 1, 0, False, None, numbers=3, source=_BRANCH)

Key = tuple[str | int, Expr]
"""What is written by counters: a dtype and the number that is set, or the bytes of a piece and its row."""


@attrs.frozen
class Counted:
    """A kernel that sets or copies by the counters of loops that the device decides.

    Args:
        counters: the loops, by their counters; pointers to their cells follow those to what it reads and writes.
        numbers: the other variables, whose values follow.
    """

    kernel: DeviceKernel
    counters: tuple[str, ...]
    numbers: tuple[str, ...]


def counted(program: Program, arch: str) -> dict[Key, Counted]:
    """The kernels of all that is written by the counters of loops that the device decides."""
    made: dict[Key, Counted] = {}
    for step, counters in _written(program.body, frozenset()):
        key = key_of(step, program)
        if key is not None and key not in made and counters & variables(key[1]):
            made[key] = _kernel(f"tw_counted_{len(made)}", key, counters, program, arch)
    return made


def key_of(step: HostSet | HostCopy, program: Program) -> Key | None:
    """What a step writes by; None where it depends on nothing."""
    places = program.storage.placements
    if isinstance(step, HostSet):
        return places[step.target].value.dtype, step.value
    return None if step.row is None else (byte_size(places[step.source].value, {}), step.row)


def counted_by(step: HostSet | HostCopy, program: Program, written: Mapping[Key, Counted]) -> Counted | None:
    """The kernel of a step that is written by counters; None for any other."""
    key = key_of(step, program)
    return None if key is None else written.get(key)


def graph_kernels(program: Program, written: Mapping[Key, Counted]) -> list[DeviceKernel]:
    """The kernels of all control that the device decides, and of what is written by its counters."""
    found = list(graph_control(program.body))
    loops = [BEGIN, NEXT] if any(isinstance(x, HostLoop) for x in found) else []
    branches = [BRANCH] if any(isinstance(x, HostIf) for x in found) else []
    return [*(x.kernel for x in written.values()), *loops, *branches]


def compile_graph(kernels: Sequence[DeviceKernel], arch: str, workdir: Path) -> Compiled:
    """Their machine code: apart from that of all others, which then is the same with a graph and without.

    Raises:
        InputError: the compiler does not know graphs that decide.
    """
    compiler = compiler_version()
    version = re.search(r"(\d+)\.(\d+)", compiler)
    if version is not None and (int(version[1]), int(version[2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise InputError(
            f"Loops and branches in CUDA graphs need a compiler of CUDA {oldest} or later, and this is {compiler}.",
            "Install a CUDA 13 toolkit, or place control flow at another level than graph.",
        )
    return compile_source(cuda_source(kernels, arch, PREAMBLE), arch, workdir, "graph")


def _written(
    steps: Sequence[HostStep], counters: frozenset[str]
) -> Iterator[tuple[HostSet | HostCopy, frozenset[str]]]:
    """All sets and copies, with the counters of the loops around them that the device decides."""
    for step in steps:
        match step:
            case HostSet() | HostCopy():
                yield step, counters
            case HostIf():
                yield from _written((*step.then, *step.orelse), counters)
            case HostLoop():
                yield from _written(step.body, counters | {step.counter} if step.graph else counters)


def _kernel(name: str, key: Key, around: frozenset[str], program: Program, arch: str) -> Counted:
    what, expr = key
    names = sorted(variables(expr))
    counters, numbers = (tuple(x for x in names if (x in around) == wanted) for wanted in (True, False))
    cells = [value(f"cell{n}", "int64", (4,)) for n in range(len(counters))]
    given = [f"number{n}" for n in range(len(numbers))]
    if isinstance(what, str):
        pointers, threads, tasks = [value("target", what, ())], 1, 1
    else:
        _, words = copy.word_of(what)
        pointers = [value("source", "uint8", (what,)), value("target", "uint8", (what,))]
        threads, tasks = copy.THREADS, -(-words // copy.THREADS)
    shell = KernelShell(name, [*pointers, *cells], threads, tasks, numbers=given)
    body = shell.body
    known = {x.name: x.interval for x in program.symbols}
    loaded = [body.bind(body.loaded(body.params[x.name], i32(0)), "trips") for x in cells]
    passed = [shell.numbers[x] for x in given]
    variable = {
        x: body.define("counter", found, known.get(x, Interval(0, _MOST)))
        for x, found in zip((*counters, *numbers), (*loaded, *passed), strict=True)
    }
    number = substitute(expr, variable)
    if isinstance(what, str):
        cell = body.params["target"]
        body.store(cell, i32(0), tirx.Cast(str(cell.dtype), body.index(number, "int64")))
    else:
        copy.statements(body, "source", "target", what, number)
    return Counted(shell.finish(arch), counters, numbers)
