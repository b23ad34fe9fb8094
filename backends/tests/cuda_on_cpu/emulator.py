"""Runs generated kernels on the CPU, thread for thread, with guard pages around every operand.

CUDA kernels are compiled from their source. ROCm kernels, for which TVM makes no source, are printed as CUDA source for
it: the same statements, calling the device functions of `amdgpu.h`.

What it proves: indexing, guards, barriers in the right places for some interleaving, tile layouts as the PTX manual
describes them. What it does not: races between threads (a barrier too few can go unnoticed), asynchrony, speed.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import mmap
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from tilewright.config.binding import Settings
from tilewright.interpret.evaluate import evaluate
from tilewright.ir import dtypes
from tilewright.ir.calls import too_deep
from tilewright.ir.program import (
    HostCall,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    HostStep,
    Launch,
    Phase,
    Program,
    launches,
)
from tilewright.ir.stack import STATUS
from tilewright.planning.weights import weights_of
from tilewright.plugins.records import RecipeEntry
from tilewright.runtime.native import TaskTime
from tilewright_backends import gpus
from tilewright_backends.build.cuda.builder import device_code
from tilewright_backends.build.cuda.graph import BEGIN, BRANCH, NEXT, PREAMBLE, counted, counted_by, graph_kernels
from tilewright_backends.build.cuda.source import DeviceKernel, cuda_source, cuda_target
from tilewright_backends.build.rocm.source import shell_for, warp_of
from tilewright_backends.build.rocm.waves import wave_maker
from tilewright_backends.emit.cuda.body import TensorMap
from tilewright_backends.timeline import task_times, traced

HERE = Path(__file__).parent
Array = np.ndarray[Any, np.dtype[Any]]

_DEFINITION = re.compile(r"__forceinline__ __device__ \w+ (tw_\w+)\([^)]*\) \{")
_COLLECTIVE = (
    "tw_ldmatrix",
    "tw_mma_",
    "tw_cp_async_",
    "tw_fence_async",
    "tw_group_barrier",
    "tw_member_barrier",
    "tw_gpu_",
    "tw_wgmma_",
    "tw_mbarrier_",
    "tw_tma_",
    "tw_registers_",
)
_WGMMA = re.compile(r"tw_wgmma_n(\d+)_(float16|bfloat16)_(\d)(\d)$")
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Emulated:
    """Compiled kernels; `run(name, arrays)` runs one on copies of the arrays that end at a page without access."""

    def __init__(self, kernels: Sequence[DeviceKernel], arch: str = "sm_90a", preamble: str = "") -> None:
        rocm = arch.startswith("gfx")
        printed = [_printable(k) for k in kernels] if rocm else kernels
        source = cuda_source(printed, "sm_90a" if rocm else arch, preamble)
        header, warp = ("amdgpu.h", warp_of(arch)) if rocm else ("emulator.h", 32)
        self._maps = {kernel.name: (kernel.params, kernel.maps) for kernel in kernels}
        self._folder = Path(tempfile.mkdtemp(prefix="tilewright-emulator-"))
        try:
            path = self._folder / "kernels.cc"
            path.write_text(_host_source(source, kernels, header), encoding="utf-8")
            library = self._folder / "kernels.so"
            _compiled([f"-I{_headers(warp)}", f"-I{HERE}", *_flags(warp), "-shared"], path, library)
            self._library = ctypes.CDLL(str(library))
        finally:
            shutil.rmtree(self._folder)

    def run(
        self, name: str, arrays: Sequence[Array | None], numbers: Sequence[int] = (), blocks: int | None = None
    ) -> None:
        """Runs a kernel on the arrays in place, then numbers; the same array twice is one buffer, None is null.

        Args:
            blocks: how many; by default as many as the kernel has at most.
        """
        guarded = {id(a): _Guarded(a) for a in arrays if a is not None}
        params, maps = self._maps[name]
        given = [0 if a is None else guarded[id(a)].address for a in arrays]
        places = {value.name: address for value, address in zip(params, given, strict=True)}
        held = [_encoded(places[x.value], x) for x in maps]
        addresses = [*given, *(x.ctypes.data for x in held)]
        pointers = (ctypes.c_void_p * len(addresses))(*addresses)
        passed = (ctypes.c_int64 * max(len(numbers), 1))(*numbers)
        getattr(self._library, f"run_{name}")(pointers, passed, -1 if blocks is None else blocks)
        for array in (x for x in arrays if x is not None):
            guarded[id(array)].read_into(array)

    def run_persistent(
        self, name: str, buffers: Sequence[tuple[Array, int] | None], numbers: Sequence[int], seed: int
    ) -> None:
        """Runs a persistent kernel, its blocks taking turns at random, on buffers in place and numbers behind them.

        Args:
            buffers: with the byte of each that its address is of.
        """
        guarded = [None if x is None else _Guarded(x[0]) for x in buffers]
        given = zip(guarded, buffers, strict=True)
        addresses = [g.address + b[1] if g is not None and b is not None else 0 for g, b in given]
        words = (ctypes.c_uint64 * (len(addresses) + len(numbers)))(*addresses, *numbers)
        getattr(self._library, f"run_{name}")(ctypes.byref(words), ctypes.c_uint64(seed))
        for copy, buffer in zip(guarded, buffers, strict=True):
            if copy is not None and buffer is not None:
                copy.read_into(buffer[0])


def _flags(warp: int) -> list[str]:
    return ["-O1", "-std=c++17", "-fpermissive", "-w", "-fPIC", f"-DEMU_WARP={warp}"]


def _compiled(flags: Sequence[str], path: Path, result: Path) -> None:
    done = subprocess.run(["g++", *flags, "-o", str(result), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]


@functools.cache
def _headers(warp: int) -> Path:
    """A folder with `emulator.h` as the compiler has read it, which takes longer than most kernels do.

    All processes that run tests share it; who comes first makes it.
    """
    header = HERE / "emulator.h"
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout
    content = "\0".join([header.read_text(encoding="utf-8"), compiler, *_flags(warp), str(HERE), str(os.getuid())])
    found = Path(tempfile.gettempdir()) / f"tilewright-emulator-h-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    if not found.exists():
        made = Path(tempfile.mkdtemp(prefix="tilewright-emulator-"))
        _compiled([*_flags(warp), "-x", "c++-header"], header, made / "emulator.h.gch")
        try:
            made.rename(found)
        except OSError:  # another process was faster
            shutil.rmtree(made)
    return found


def _encoded(address: int, tensor_map: TensorMap) -> Array:
    """A tensor map as `emulator.h` reads it: address, rank, element size, then extents, strides and box."""
    size, rank = dtypes.size_of(tensor_map.dtype), len(tensor_map.shape)
    words = np.zeros(18, np.uint64)
    words[:3] = address + tensor_map.offset * size, rank, size
    for number, ((extent, stride), width) in enumerate(zip(tensor_map.shape, tensor_map.box, strict=True)):
        words[3 + 3 * number : 6 + 3 * number] = extent, stride * size, width
    return words


class _Guarded:
    """A copy of an array whose end (rounded to 16 bytes, as accesses are that wide) is the end of the mapped memory."""

    def __init__(self, array: Array) -> None:
        page = mmap.PAGESIZE
        size = -(-max(array.nbytes, 16) // 16) * 16
        pages = -(-size // page) * page
        self._memory = mmap.mmap(-1, pages + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for edge in (start, start + page + pages):
            assert _LIBC.mprotect(edge, page, 0) == 0
        self.address = start + page + pages - size
        ctypes.memmove(self.address, array.ctypes.data, array.nbytes)

    def read_into(self, array: Array) -> None:
        ctypes.memmove(array.ctypes.data, self.address, array.nbytes)


_WORD = re.compile(r"(\w+)\.([xyzw]) = (tw_load_\w+x[24]\(.*\));")
_SHARED = re.compile(r"__shared__ alignas\((\d+)\) ([\w ]+?) (\w+)\[(\d+)\];")


def _printable(kernel: DeviceKernel) -> DeviceKernel:
    """A ROCm kernel as TVM's generator of CUDA source takes it: the same statements."""
    return attrs.evolve(kernel, function=kernel.function.with_attr("target", cuda_target("sm_90a")))


def _host_source(source: str, kernels: Sequence[DeviceKernel], header: str) -> str:
    # A call that gives a vector is printed once for each of its elements.
    source = _WORD.sub(lambda x: f"{x[1]} = {x[3]};" if x[2] == "x" else "", source)
    # Shared memory with a size: one for all threads, poisoned by the first thread of each block.
    source = _SHARED.sub(
        r"static \2 \3[\4] __attribute__((aligned(\1))); if (emu_number == 0) std::memset(\3, 0xff, sizeof \3);", source
    )
    source = re.sub(
        r"extern __shared__ __align__\(\d+\) uchar shared_memory_ptr\[\];",
        "unsigned char* emu_shared_memory = emu_shared;",
        source,
    )
    parts = [f'#include "{header}"', _without_instructions(source)]
    for kernel in kernels:
        if kernel.role != "kernel":
            continue
        if kernel.words:
            parts.append(
                f'extern "C" void run_{kernel.name}({kernel.name}_words* w, uint64_t seed) {{ emu_run({kernel.grid}, '
                f"{kernel.block}, {kernel.shared_bytes}, true, seed, [=]() {{ {kernel.name}(*w); }}); }}"
            )
            continue
        count = len(kernel.params)
        values = [f"(decltype(emu_arg<{i}>(&{kernel.name})))a[{i}]" for i in range(count)]
        values += [f"*(CUtensorMap*)a[{count + i}]" for i in range(len(kernel.maps))]
        args = ", ".join([*values, *(f"n[{i}]" for i in range(kernel.numbers))])
        parts.append(
            f'extern "C" void run_{kernel.name}(void** a, int64_t* n, int blocks) {{ emu_run(blocks < 0 ? '
            f"{kernel.grid} : blocks, {kernel.block}, {kernel.shared_bytes}, false, 0, "
            f"[=]() {{ {kernel.name}({args}); }}); }}"
        )
    return "\n".join(parts)


def _without_instructions(source: str) -> str:
    """The source without the functions around PTX instructions that the emulator has its own for."""
    for match in reversed(list(_DEFINITION.finditer(source))):
        name = match.group(1)
        if not name.startswith(_COLLECTIVE) or name == "tw_wgmma_descriptor":
            continue
        end, depth = match.end(), 1
        while depth:
            depth += {"{": 1, "}": -1}.get(source[end], 0)
            end += 1
        instead = ""
        if "_wait_" in name or "_registers_" in name:
            instead = f"static void {name}() {{}}"
        elif "_wgmma_settled_" in name:
            instead = f"static void {name}(float*) {{}}"
        elif found := _WGMMA.match(name):
            n, dtype, rows, columns = found.groups()
            bf16 = int(dtype == "bfloat16")
            call = f"emu_wgmma(d, a, b, {n}, {bf16}, {rows}, {columns})"
            instead = f"static void {name}(float* d, uint64_t a, uint64_t b) {{ {call}; }}"
        source = source[: match.start()] + instead + source[end:]
    return source


def emulate(
    program: Program,
    settings: Settings,
    inputs: Sequence[Array],
    symbols: Mapping[str, int] | None = None,
    seeds: Sequence[int] = (0,),
    times: dict[str, list[TaskTime]] | None = None,
) -> list[Array]:
    """The outputs of a planned program for the values of its symbols, each launch on the emulator.

    Args:
        seeds: of runs one after the other, in which the blocks of persistent launches take turns in another order each;
            the outputs are those of the last.
        times: gets the records of traced launches.
    """
    values = dict(symbols or {})
    registry = settings.registry
    used = {kernel.choice.recipe for kernel in program.kernels.values()}
    entries = {name: registry.get(RecipeEntry, name) for name in used}
    emitters: Mapping[str, Callable[..., Any]] = {n: registry.resolve(e, e.emitter) for n, e in entries.items()}
    rocm = settings.target.backend == "rocm"
    device = gpus.model("rocm", settings.target.device) if rocm else gpus.model("cuda", "h200")
    code = (
        device_code(program, emitters, device, shell_for(device.arch), wave_maker(device.arch))
        if rocm
        else device_code(program, emitters, device)
    )
    emulated = Emulated(code.kernels, device.arch, code.preamble)
    written = {} if rocm else counted(program, device.arch)
    deciding = graph_kernels(program, written)
    decided = Emulated(deciding, device.arch, PREAMBLE) if deciding else emulated
    cells: dict[str, Array] = {}  # of the loops that the device decides, by their counters
    places = program.storage.placements
    memory = {
        name: np.full(program.size_of(b), 0 if b.kind == "event" else 0xFF, np.uint8)
        for name, b in program.storage.buffers.items()
    }
    depth, seed = 0, 0  # active calls; of the run

    def frame(buffer: str, ahead: int = 0) -> int:
        found = program.storage.buffers[buffer]
        # A launch of the host program that makes calls counts from the first frame on.
        return found.bytes * max(depth - 1 + ahead, 0) if found.owner == "frame" else 0

    def bytes_of(name: str, ahead: int = 0) -> Array:
        place = places[name]
        first = place.offset + frame(place.buffer, ahead)
        return memory[place.buffer][first : first + place.bytes]

    for weight in weights_of(program):
        bytes_of(weight.name)[:] = np.ascontiguousarray(weight.load()).reshape(-1).view(np.uint8)
    for value, array in zip(program.inputs, inputs, strict=True):
        bytes_of(value.name)[: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def scalar(name: str) -> int:
        return int(bytes_of(name).view(dtypes.to_numpy(places[name].value.dtype))[0])

    def call(step: HostCall) -> None:
        nonlocal depth
        procedure = program.procedures[step.procedure]
        assert depth < program.depth
        for source, target in zip(step.args, procedure.params, strict=True):
            bytes_of(target, 1)[:] = bytes_of(source)
        depth += 1
        run(procedure.body, {})
        depth -= 1
        for source, target in zip(procedure.results, step.results, strict=True):
            bytes_of(target)[:] = bytes_of(source, 1)

    def run(steps: Sequence[HostStep], env: Mapping[str, int]) -> None:
        for step in steps:
            match step:
                case HostCall():
                    call(step)
                case HostSet() | HostCopy() if (found := counted_by(step, program, written)) is not None:
                    pointers = [step.target] if isinstance(step, HostSet) else [step.source, step.target]
                    given = [*map(bytes_of, pointers), *(cells[x] for x in found.counters)]
                    decided.run(found.kernel.name, given, [env.get(x, values.get(x, 0)) for x in found.numbers])
                case HostCopy():
                    source = bytes_of(step.source)
                    first = 0 if step.row is None else int(evaluate(step.row, env)) * len(source)
                    bytes_of(step.target)[first : first + len(source)] = source
                case HostSet():
                    target = bytes_of(step.target).view(dtypes.to_numpy(places[step.target].value.dtype))
                    target[0] = int(evaluate(step.value, env))
                case HostIf() if step.graph:
                    cell = np.full(4, -1, np.int64)
                    decided.run(BRANCH.name, [cell, bytes_of(step.condition)], [1, 0, 0])
                    run(step.then if cell[2] else step.orelse, env)
                case HostIf():
                    run(step.then if scalar(step.condition) else step.orelse, env)
                case HostLoop() if step.graph:
                    cell = cells[step.counter] = np.full(4, -1, np.int64)
                    limit, condition = (bytes_of(x) if x else None for x in (step.limit, step.condition))
                    most = (1 << 63) - 1 if step.trip is None else int(evaluate(step.trip, {**values, **env}))
                    decided.run(BEGIN.name, [cell, limit, condition], [most, 0, 0])
                    while cell[2]:
                        run(step.body, env)
                        decided.run(NEXT.name, [cell, condition], [0, 0])
                case HostLoop():
                    limits = [int(evaluate(step.trip, env))] if step.trip is not None else []
                    limits += [scalar(step.limit)] if step.limit else []
                    trip = 0
                    while all(trip < x for x in limits) and (not step.condition or scalar(step.condition)):
                        run(step.body, {**env, step.counter: trip})
                        trip += 1
                case Launch() if (wave := code.waves.get(step.name)) is not None:
                    numbers = [values[x] for x in wave.symbols]
                    emulated.run(wave.kernel.name, [bytes_of(x) for x in wave.args], numbers)
                case Launch() if (task := step.only_task) is None:
                    found = code.persistent[step.name]
                    buffers = [(memory[x], frame(x)) if x else None for x in found.buffers]
                    numbers = [values[x.name] for x in program.symbols]
                    emulated.run_persistent(found.kernel.name, buffers, numbers, seed)
                case Launch():
                    (phase,) = step.body
                    assert isinstance(phase, Phase)
                    kernel = program.kernels[task.kernel]
                    emulated.run(
                        code.alone[task.kernel].name,
                        [bytes_of(name) for name in task.args],
                        [values[x.name] for x in kernel.symbols],
                        int(evaluate(phase.lanes[0].units, values)),
                    )

    for number in seeds:
        seed = number
        for name, buffer in program.storage.buffers.items():
            if buffer.kind in ("workspace", "output"):
                memory[name].fill(0xFF)
        run(program.body, {})
        if STATUS in memory and (status := int(memory[STATUS].view(np.uint32)[0])):
            raise too_deep(list(program.procedures)[status - 1], program.depth)
    if times is not None:
        for launch in (x for x in launches(program.steps) if x.traced):
            told = traced(launch, program, code.persistent[launch.name].names)
            times[launch.name] = task_times(told, memory[launch.event_buffer].tobytes())
    outputs = []
    for v in program.outputs:
        shape = [int(evaluate(n, values)) for n in v.shape]
        flat = bytes_of(v.name).view(dtypes.to_numpy(v.dtype))
        outputs.append(flat[: int(np.prod(shape, dtype=np.int64))].reshape(shape))
    return outputs
