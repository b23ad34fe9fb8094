"""Launches on CUDA: each is one call of a device function through TVM's runtime, on the current stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import attrs
from tvm import tirx
from tvm.ir import PointerType, PrimType
from tvm.script import tirx as script
from tvm.tirx import op as tir_op

from tilewright.errors import InternalError
from tilewright.ir import dtypes
from tilewright.ir.bounds import bounds_of
from tilewright.ir.expr import Const, const, static
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
    Set,
    Task,
    host_leaves,
    launches,
)
from tilewright.ir.stack import STATUS
from tilewright_backends.build.cuda.dispatcher import Persistent
from tilewright_backends.build.cuda.graph import Counted, Key
from tilewright_backends.build.cuda.source import DeviceKernel, Wave
from tilewright_backends.emit.cuda.body import TensorMap
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.host.function import Emit, HostFunction
from tilewright_backends.host.graph import DeviceControl
from tilewright_backends.lower.types import Prim, convert
from tilewright_backends.lower.types import storage as stored_as

_SWIZZLE_128, _PROMOTE_256 = 3, 3
"""Codes of the driver's interface for tensor maps."""

READ_BACK = """\
#include <stdint.h>
void* TVMFFIEnvGetStream(int32_t device_type, int32_t device_id);
int cudaMemcpyAsync(void* to, const void* from, uint64_t bytes, int kind, void* stream);
int cudaStreamSynchronize(void* stream);

/* The scalar at a device address once all launches before are done, 0 when that fails: errors of CUDA stay, and the
   next call that the loader checks reports them. */
static void read_back(void* to, const void* from, uint64_t bytes) {
  void* stream = TVMFFIEnvGetStream(2, 0);
  if (cudaMemcpyAsync(to, from, bytes, 2, stream) == 0) cudaStreamSynchronize(stream);
}
int8_t tw_read_back_int8(const void* from) { int8_t v = 0; read_back(&v, from, sizeof v); return v; }
int32_t tw_read_back_int32(const void* from) { int32_t v = 0; read_back(&v, from, sizeof v); return v; }
int64_t tw_read_back_int64(const void* from) { int64_t v = 0; read_back(&v, from, sizeof v); return v; }
"""
"""C source that is linked into the library of a program whose host part reads values of the device."""


NO_WAVES: Mapping[str, Wave] = MappingProxyType({})
NOTHING_COUNTED: Mapping[Key, Counted] = MappingProxyType({})


class CudaHost(HostFunction):
    """The host function of a CUDA program.

    Args:
        device: the device function of each kernel that is launched alone, by the kernel's name.
        persistent: the kernels of all other launches, by the launches' names.
        copies: the device function that copies a number of bytes, by that number.
        sets: the device function that writes an integer into a scalar, by the scalar's dtype.
        waves: the kernels of launches that are waves, by the launches' names.
        counted: the kernels of what is written by counters of loops that the device decides.
    """

    def __init__(
        self,
        program: Program,
        device: Mapping[str, DeviceKernel],
        persistent: Mapping[str, Persistent],
        copies: Mapping[int, DeviceKernel],
        sets: Mapping[str, DeviceKernel],
        waves: Mapping[str, Wave] = NO_WAVES,
        counted: Mapping[Key, Counted] = NOTHING_COUNTED,
    ) -> None:
        super().__init__(program, {})
        self.device = device
        self.persistent = persistent
        self.copies = copies
        self.sets = sets
        self.waves = waves
        self._graph = DeviceControl(self, counted)
        self._maps: dict[tuple[str, TensorMap], Prim] = {}
        for task in (x for launch in launches(program.steps) if (x := launch.only_task) is not None):
            for found, name in self._mapped(device[task.kernel], task.args):
                if (name, found) not in self._maps:
                    self._maps[name, found] = self._room_for(found, name)
        most = max((x.kernel.words for x in persistent.values()), default=0)
        self._words: Prim = self.code.local("words", "uint64", most) if most else None

    def _room_for(self, tensor_map: TensorMap, name: str) -> Prim:
        """Room for a map of a value; it is encoded at once where the value stays while the program runs."""
        room = tirx.Var(self.code.unique("map"), script.handle("tensormap").ty)
        self.code.emit(tirx.Bind(room, script.tvm_stack_alloca("tensormap", 1)))
        if not self._moves(name):
            self._encode(room, tensor_map, name)
        return room

    def _moves(self, name: str) -> bool:
        """Whether a value lies somewhere else in each call of a procedure."""
        storage = self.program.storage
        return storage.buffers[storage.placements[name].buffer].owner == "frame"

    def _encode(self, room: Prim, tensor_map: TensorMap, name: str) -> None:
        size = dtypes.size_of(tensor_map.dtype)
        extents, strides = zip(*tensor_map.shape, strict=True)
        encode = script.tensormap_encode_tiled(
            room,
            self.pointer(name, tirx.const(tensor_map.offset * size, "int64")),
            *extents,
            *(x * size for x in strides[1:]),
            *tensor_map.box,
            *(1 for _ in tensor_map.box),
            descriptor_dtype=stored_as(tensor_map.dtype),
            rank=len(tensor_map.box),
            interleave=0,
            swizzle=_SWIZZLE_128,
            l2_promotion=_PROMOTE_256,
            oob_fill=0,
        )
        self.code.evaluate(encode)

    def _mapped(self, kernel: DeviceKernel, args: Sequence[str]) -> Iterator[tuple[TensorMap, str]]:
        """The kernel's maps with the values that they are of."""
        places = {value.name: name for value, name in zip(kernel.params, args, strict=True)}
        for found in kernel.maps:
            yield attrs.evolve(found, value=""), places[found.value]

    def launch_task(self, task: Task, blocks: Prim | None = None) -> None:
        """The launch of a task's kernel, in as many blocks as it has if not `blocks`."""
        kernel = self.device[task.kernel]
        maps = []
        for found, name in self._mapped(kernel, task.args):
            maps.append(self._maps[name, found])
            if self._moves(name):
                self._encode(maps[-1], found, name)
        numbers = (convert(x, "int64") for x in self.symbol_values(task.kernel))
        self.launch(kernel, [*map(self.pointer, task.args), *maps, *numbers], blocks)

    def launch_persistent(self, launch: Launch) -> None:
        """The launch of a persistent kernel. Its struct is copied when it is launched, so all have one place for it."""
        found = self.persistent[launch.name]
        words = [self.base_for(launch, x) if x else tirx.const(0, "uint64") for x in found.buffers]
        words += [tirx.Cast("uint64", self.code.env[x.name]) for x in self.program.symbols]
        for number, word in enumerate(words):
            self.code.emit(tirx.BufferStore(self._words, word, [i32(number)]))
        self.launch(found.kernel, (self._words.data,))

    def launch_wave(self, launch: Launch) -> None:
        """The launch of tasks side by side."""
        wave = self.waves[launch.name]
        numbers = (convert(self.code.env[x], "int64") for x in wave.symbols)
        self.launch(wave.kernel, (*map(self.pointer, wave.args), *numbers))

    def launch(self, kernel: DeviceKernel, values: Sequence[Prim], blocks: Prim | None = None) -> None:
        """One launch of a kernel on the struct that it copies, pointers, tensor maps and numbers, as far as it has any.

        Args:
            blocks: how many, where that depends on the values of symbols.
        """
        sizes = [i32(kernel.grid) if blocks is None else blocks, i32(kernel.block)]
        if kernel.shared_bytes:
            sizes.append(i32(kernel.shared_bytes))
        call = tir_op.call_ffi_kernel(kernel.name, *values, *sizes, launch_params=kernel.launch_tags)
        self.code.evaluate(call)

    def scalar(self, name: str) -> Prim:
        """A scalar value, read back from the device; 0 after a call that was too deep, so that no loop goes on."""
        dtype = self.program.storage.placements[name].value.dtype
        carrier = f"int{8 * dtypes.size_of(dtype)}"
        if dtypes.is_float(dtype) or carrier not in ("int8", "int32", "int64"):
            raise InternalError(f"{name} decides what the host program does, but {dtype} is not read back.")
        value = tirx.call_extern(carrier, f"tw_read_back_{carrier}", self.pointer(name))
        if STATUS not in self.program.storage.buffers:
            return value
        place = tirx.reinterpret(PointerType(PrimType("int32")), self.base(STATUS))
        status = tirx.call_extern("int32", "tw_read_back_int32", place)
        return tirx.Select(tirx.EQ(status, i32(0)), value, tirx.const(0, carrier))

    def copy(self, source: Prim, target: Prim, name: str) -> None:
        """See `HostFunction.copy`: a launch of its own."""
        size = static(self.bytes_of(name), f"size of {name}")
        if size:
            self.launch(self.copies[size], (source, target))

    def host_copy(self, step: HostCopy) -> None:
        """See `HostFunction.host_copy`: by a counter on the device, if the row is one."""
        if not self._graph.write(step):
            super().host_copy(step)

    def host_branch(self, step: HostIf, then: Emit, orelse: Emit) -> None:
        """See `HostFunction.host_branch`: decided by whom the step says."""
        if step.graph:
            self._graph.branch(step, then, orelse)
        else:
            super().host_branch(step, then, orelse)

    def host_loop(self, step: HostLoop, emit: Emit) -> None:
        """See `HostFunction.host_loop`: decided by whom the step says."""
        if step.graph:
            self._graph.loop(step, emit)
        else:
            super().host_loop(step, emit)

    def set(self, step: HostSet | Set) -> None:
        """See `HostFunction.set`: a launch of its own."""
        if isinstance(step, HostSet) and self._graph.write(step):
            return
        kernel = self.sets[self.program.storage.placements[step.target].value.dtype]
        self.launch(kernel, (self.pointer(step.target), self.code.index(step.value, "int64")))


def copied(steps: Sequence[HostStep]) -> Iterator[str]:
    """Values of the sizes of all copies in a host tree."""
    for step in host_leaves(steps):
        if isinstance(step, HostCopy):
            yield step.source
        elif isinstance(step, HostCall):
            yield from (*step.args, *step.results)


def sets_of(steps: Sequence[HostStep]) -> Iterator[HostSet]:
    """All steps of a host tree that write an integer."""
    return (x for x in host_leaves(steps) if isinstance(x, HostSet))


def emit_launch(host: HostFunction, launch: Launch) -> None:
    """The code of one launch: one kernel whose tasks are the blocks, or a persistent one."""
    assert isinstance(host, CudaHost)
    task = launch.only_task
    if task is None and launch.name in host.waves:
        host.launch_wave(launch)
        return
    if task is None:
        host.launch_persistent(launch)
        return
    kernel = host.device[task.kernel]
    (phase,) = launch.body
    assert isinstance(phase, Phase)
    (lane,) = (x for x in phase.lanes if x.items)
    units = host.code.simplify(lane.units)
    if bounds_of(units, host.code.bounds).high != kernel.grid:
        raise InternalError(f"launch {launch.name}: {lane.units} units for {kernel.grid} tasks.")
    if isinstance(units, Const):
        host.launch_task(task)
        return
    with host.code.when(host.code.index(host.code.simplify(const(0) < units))):
        host.launch_task(task, host.code.index(units, "int32"))
