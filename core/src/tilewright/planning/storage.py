"""Storage: a place for every value over its lifetime. The core owns allocation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.ir import dtypes
from tilewright.ir.bounds import Bounds, bounds_of
from tilewright.ir.events import LINE, event_bytes
from tilewright.ir.ops import Value
from tilewright.ir.program import (
    Buffer,
    Copy,
    Fork,
    GridCall,
    GridControl,
    HostCall,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    HostStep,
    Kernel,
    Launch,
    Phase,
    Placement,
    Procedure,
    Set,
    Step,
    Storage,
    Task,
    every_call,
    launches,
    next_number,
    numbered_launches,
    sides_of,
    spans,
)
from tilewright.ir.stack import STACK, STATUS, WORD, loops_around, words_of
from tilewright.ir.verify.tree import conditions_of, decides, numbered_calls, work_of
from tilewright.planning.within import conflicts_within

ALIGNMENT = 256
"""Bytes that placements start at a multiple of: a GPU's allocation granularity, four cache lines of a CPU."""

FRAME_ALIGNMENT = 64
"""The same in a frame, of which there may be very many: one cache line, four times the widest access of a kernel."""

WORKSPACE = "workspace"
FRAMES = "frames"
REGIONS = "regions"


def byte_size(value: Value, symbols: Bounds) -> int:
    """Bytes of a value by the bounds of the symbols."""
    return bounds_of(value.num_elements(), symbols).high * dtypes.size_of(value.dtype)


@attrs.frozen
class Part:
    """A value that stands in the memory of an input.

    Args:
        input: name of the input.
        offset: bytes from where the input begins.
    """

    value: Value
    input: str
    offset: int


@attrs.define
class _Life:
    """A value's lifetime while it is being found."""

    first: int
    last: int


def allocate(
    steps: Sequence[HostStep],
    values: Mapping[str, Value],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    weights: Iterable[Value],
    procedures: Sequence[Procedure] = (),
    symbols: Bounds | None = None,
    kernels: Mapping[str, Kernel] | None = None,
    parts: Iterable[Part] = (),
) -> Storage:
    """Places inputs, outputs and weights in buffers of their own, and all other values in one workspace.

    Each launch whose units meet gets an event buffer. Launches that make calls get a stack, and a place in which they
    say that a call was too deep.

    What a procedure takes, gives or needs after a call that it makes stands in its frame, and so does what calls of a
    fork take and give. The rest of what it computes stands in a part of the workspace that all procedures share; where
    calls run side by side, in a buffer of each region.

    Args:
        steps: the host tree.
        values: every value that a task or a copy names.
        symbols: intervals of the symbols in their shapes.
        kernels: what tasks run; without them, values of one launch share no bytes.
        parts: values that stand in inputs.
    """
    weights = list(weights)
    known = (*values.values(), *inputs, *outputs, *weights)
    sizes = {x.name: byte_size(x, symbols or {}) for x in known}
    buffers: dict[str, Buffer] = {}
    placements: dict[str, Placement] = {}
    lives = lifetimes(steps)
    where = spans(steps, procedures)
    end = max([next_number(steps) - 1, 0, *(last for _, last in where.values())])
    for kind, group in (("input", inputs), ("output", outputs), ("weight", weights)):
        for value in group:
            size = sizes[value.name]
            buffers[value.name] = Buffer(value.name, kind, size)  # type: ignore[arg-type]
            placements[value.name] = Placement(value, value.name, 0, size, 0, end)
    for part in parts:
        size = byte_size(part.value, symbols or {})
        placements[part.value.name] = Placement(part.value, part.input, part.offset, size, 0, end)
    framed: list[_Placed] = []
    shared: list[_Placed] = []
    for procedure in procedures:
        own = procedure_lifetimes(procedure, where[procedure.name])
        own = {name: life for name, life in own.items() if name not in placements and name not in lives}
        kept = {*procedure.params, *procedure.results, *_across(procedure, where[procedure.name][0], own)}
        framed.append(_pack({name: life for name, life in own.items() if name in kept}, sizes, FRAME_ALIGNMENT))
        shared.append(_pack({name: life for name, life in own.items() if name not in kept}, sizes, ALIGNMENT))
    temporary = {name: life for name, life in lives.items() if name not in placements}
    within = _inside_launches(steps, temporary, sizes, kernels or {})
    apart = {name: life for name, life in temporary.items() if not any(name in x.offsets for x in within)}
    called = [step for step, _ in numbered_calls(steps)]
    items = [(sizes[name], life.first, life.last) for name, life in apart.items()]
    items += [(x.bytes, life.first, life.last) for x in within for _, life in [*x.offsets.values()][:1]]
    started = launches((*steps, *(x for p in procedures for x in p.host)))
    regional = any(x.subgrids.levels for x in started)
    common = max((x.bytes for x in shared), default=0)
    if called and not regional:
        items.append((common, called[0], called[-1]))
    offsets, total = pack_by_lifetime(items)
    buffers[WORKSPACE] = Buffer(WORKSPACE, "workspace", total)
    for launch in started:
        if launch.event_buffer:
            buffers[launch.event_buffer] = Buffer(launch.event_buffer, "event", event_bytes(launch))
    loops = max([loops_around(x) for x in (*(y.body for y in started), *(p.parts for p in procedures))], default=-1)
    if loops >= 0:
        buffers[STATUS] = Buffer(STATUS, "event", LINE)
        buffers[STACK] = Buffer(STACK, "event", WORD * words_of(loops, regional), owner="frame")
    for (name, life), offset in zip(apart.items(), offsets, strict=False):
        placements[name] = _placement(values[name], WORKSPACE, offset, sizes[name], life)
    for placed, first in zip(within, offsets[len(apart) :], strict=False):
        for name, (offset, life) in placed.offsets.items():
            placements[name] = _placement(values[name], WORKSPACE, first + offset, sizes[name], life)
    if called:
        buffers[FRAMES] = Buffer(FRAMES, "workspace", max(x.bytes for x in framed), owner="frame")
        if regional and common:
            buffers[REGIONS] = Buffer(REGIONS, "workspace", common, owner="region")
        there, begin = (REGIONS, 0) if regional else (WORKSPACE, offsets[-1])
        for buffer, first, several in ((FRAMES, 0, framed), (there, begin, shared)):
            for placed in several:
                for name, (offset, life) in placed.offsets.items():
                    placements[name] = _placement(values[name], buffer, first + offset, sizes[name], life)
    return Storage(buffers, placements)


@attrs.frozen
class _Placed:
    """Offsets and lifetimes of some values by name, and the bytes that they take together."""

    offsets: Mapping[str, tuple[int, _Life]]
    bytes: int


def _pack(lives: Mapping[str, _Life], sizes: Mapping[str, int], alignment: int) -> _Placed:
    items = [(sizes[name], life.first, life.last) for name, life in lives.items()]
    offsets, total = pack_by_lifetime(items, alignment)
    return _Placed({name: (offset, x) for (name, x), offset in zip(lives.items(), offsets, strict=True)}, total)


def _inside_launches(
    steps: Sequence[HostStep], lives: Mapping[str, _Life], sizes: Mapping[str, int], kernels: Mapping[str, Kernel]
) -> list[_Placed]:
    """For each launch of several kernels the places of values that live in it alone, from one first place."""
    found = []
    for number, launch in numbered_launches(steps):
        names = [x for x in dict.fromkeys(touched(launch.body)) if x in lives and lives[x] == _Life(number, number)]
        if not launch.envelope.cooperative or len(names) < 2 or not kernels:
            continue
        conflicts = conflicts_within(launch, kernels, names)
        if conflicts is not None:
            offsets, total = pack_by_conflicts([sizes[x] for x in names], conflicts)
            found.append(_Placed({x: (o, lives[x]) for x, o in zip(names, offsets, strict=True)}, total))
    return found


def _placement(value: Value, buffer: str, offset: int, size: int, life: _Life) -> Placement:
    return Placement(value, buffer, offset, size, life.first, life.last)


def _across(procedure: Procedure, first: int, lives: Mapping[str, _Life]) -> Iterator[str]:
    """The values that a procedure needs after a call that they stand before, or while another one may be at work."""
    called = Counter(step for step, _ in numbered_calls(procedure.body, first + 1))
    several = [step for step, count in called.items() if count > 1]  # of a fork
    for name, life in lives.items():
        if any(life.first < x < life.last for x in called) or any(life.first <= x <= life.last for x in several):
            yield name


def procedure_lifetimes(procedure: Procedure, span: tuple[int, int] = (0, 0)) -> dict[str, _Life]:
    """`lifetimes` of a procedure whose parameters are written, and its results read, in the steps of `span`."""
    lives = lifetimes(procedure.body, span[0] + 1)
    for names, number in ((procedure.params, span[0]), (procedure.results, span[1])):
        for name in names:
            life = lives.setdefault(name, _Life(number, number))
            life.first, life.last = min(life.first, number), max(life.last, number)
    return lives


def lifetimes(steps: Sequence[Step], number: int = 0) -> dict[str, _Life]:
    """First and last host step at which each value is touched. What a loop touches lives as long as the loop.

    Args:
        number: of the first step.
    """
    lives: dict[str, _Life] = {}

    def touch(names: Iterable[str], first: int, last: int) -> None:
        for name in names:
            life = lives.setdefault(name, _Life(first, last))
            life.first, life.last = min(life.first, first), max(life.last, last)

    def visit(sequence: Sequence[Step], number: int) -> int:
        for step in sequence:
            start = number
            match step:
                case Launch():
                    touch(touched(step.body), number, number)
                    number += 1
                case Phase():
                    touch(touched((step,)), number, number)
                    number += 1
                case HostCopy():
                    touch((step.source, step.target), number, number)
                    number += 1
                case HostSet():
                    touch((step.target,), number, number)
                    number += 1
                case HostCall() | GridCall():
                    touch((*step.args, *step.results, *step.reads), number, number)
                    if isinstance(step, GridCall) and step.late:
                        touch(step.results, number, number + 1)  # in front of no barrier
                    number += 1
                case Fork():
                    for call in step.calls:
                        touch((*call.args, *call.results, *call.reads), number, number)
                    number += 1
                case HostLoop() | GridControl() if step.counter:
                    touch((step.limit,) * bool(step.limit), start, start)
                    number = visit(step.body, number + 1) + 1
                    touch(_inside((step,)), start, number - 1)
                    touch(_decides(step), start, number)
                case HostIf() | GridControl():
                    touch((step.condition,), start, start)
                    number += 1
                    for side in sides_of(step):
                        number = visit(side, number)
                    number += 1
                    touch(_decides(step), start, number)
        return number

    visit(steps, number)
    return lives


def _decides(step: Step) -> tuple[str, ...]:
    """What units decide by, which some may still read while others begin with what comes behind the control."""
    return decides(step) if isinstance(step, GridControl) else ()


def _inside(steps: Sequence[Step]) -> Iterator[str]:
    for step in steps:
        match step:
            case Launch():
                yield from touched(step.body)
            case Phase():
                yield from touched((step,))
            case HostCopy():
                yield from (step.source, step.target)
            case HostSet():
                yield step.target
            case HostCall() | GridCall() | Fork():
                yield from (name for x in every_call((step,)) for name in (*x.args, *x.results, *x.reads))
            case HostLoop() | GridControl() if step.counter:
                yield from (step.condition,) * bool(step.condition)
                yield from (step.limit,) * bool(step.limit)
                yield from _inside(step.body)
            case HostIf() | GridControl():
                yield step.condition
                for side in sides_of(step):
                    yield from _inside(side)


def touched(parts: Sequence[Phase | GridControl | GridCall | Fork]) -> Iterator[str]:
    """Names of the values that units read or write, those that control and calls depend on included."""
    yield from conditions_of(parts)
    for call in every_call(parts):
        yield from (*call.args, *call.results, *call.reads)
    for work in work_of(parts):
        match work:
            case Task():
                yield from work.args
            case Copy():
                yield from (work.source, work.target)
            case Set():
                yield work.target


def pack_by_lifetime(
    items: Sequence[tuple[int, int, int]], alignment: int = ALIGNMENT
) -> tuple[list[int], int]:
    """Offsets for (bytes, first, last) items such that those alive together do not overlap, and the total size."""
    first, last = (np.asarray([x[i] for x in items], np.int64) for i in (1, 2))
    order = sorted(range(len(items)), key=lambda i: (-items[i][0], items[i][1], i))
    return _pack_in(order, [x[0] for x in items], lambda i: (first <= last[i]) & (first[i] <= last), alignment)


def pack_by_conflicts(sizes: Sequence[int], conflicts: npt.NDArray[np.bool_]) -> tuple[list[int], int]:
    """Offsets for values such that no two that conflict overlap, and the total size.

    Args:
        conflicts: [i, j] whether two values must not share bytes.
    """
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    return _pack_in(order, sizes, lambda i: conflicts[i], ALIGNMENT)


def _pack_in(
    order: Sequence[int],
    sizes: Sequence[int],
    conflicting: Callable[[int], npt.NDArray[np.bool_]],
    alignment: int,
) -> tuple[list[int], int]:
    """Places items in an order, each at the lowest offset that is free of those that it conflicts with.

    Largest first, that is the usual greedy, close to the lower bound on real models.
    """
    offsets = [0] * len(sizes)
    # Of what is placed, by offset; an unrolled recurrence has thousands of values.
    placed, starts, ends = (np.zeros(0, np.int64) for _ in range(3))
    for i in order:
        size = -(-max(sizes[i], 1) // alignment) * alignment
        together = conflicting(i)[placed]
        reached = np.maximum.accumulate(np.concatenate([[0], ends[together]]))
        fits = np.flatnonzero(reached[:-1] + size <= starts[together])
        offset = offsets[i] = int(reached[fits[0]] if len(fits) else reached[-1])
        at = np.searchsorted(starts, offset)
        placed, starts = np.insert(placed, at, i), np.insert(starts, at, offset)
        ends = np.insert(ends, at, offset + size)
    return offsets, int(ends.max(initial=0))
