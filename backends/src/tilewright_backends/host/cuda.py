"""Launches on CUDA: each is one call of a device function through TVM's runtime, on the current stream."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import tirx
from tvm.tirx import op as tir_op

from tilewright.errors import InternalError
from tilewright.ir.expr import Const, Var, const
from tilewright.ir.program import UNIT, HostCopy, Launch, Phase, Program, Task
from tilewright_backends.build.cuda.source import DeviceKernel
from tilewright_backends.emit.cuda.body import i32
from tilewright_backends.host.function import HostFunction
from tilewright_backends.lower.types import Prim, storage


class CudaHost(HostFunction):
    """The host function of a CUDA program.

    Args:
        device: the device function of each kernel, by the kernel's name.
    """

    def __init__(self, program: Program, device: Mapping[str, DeviceKernel]) -> None:
        super().__init__(program, {})
        self.device = device

    def launch(self, kernel: DeviceKernel, args: tuple[str, ...]) -> None:
        """One launch of a kernel on the named values."""
        values = [self.pointer(x) for x in args]
        sizes = [i32(kernel.grid), i32(kernel.block)]
        if kernel.shared_bytes:
            sizes.append(i32(kernel.shared_bytes))
        call = tir_op.call_ffi_kernel(kernel.name, *values, *sizes, launch_params=kernel.launch_tags)
        self.code.evaluate(call)

    def scalar(self, name: str) -> Prim:
        """A scalar value, copied to the host first; the copy waits for everything before it on the stream."""
        dtype = storage(self.program.storage.placements[name].value.dtype)
        cell = tirx.decl_buffer((1,), dtype, self.code.unique("read"), scope="local", layout=None)
        self.code.emit(tirx.AllocBuffer(cell, {"disable_lower_builtin": tirx.IntImm("bool", 1)}))
        raise InternalError(f"host control on the device value {name} is not generated yet.")

    def _copy(self, copy: HostCopy) -> None:
        raise InternalError(f"copying {copy.source} to {copy.target} between launches is not generated yet.")


def emit_launch(host: HostFunction, launch: Launch) -> None:
    """The code of one launch: one kernel whose tasks are the blocks."""
    assert isinstance(host, CudaHost)
    if len(launch.body) != 1 or not isinstance(launch.body[0], Phase):
        raise InternalError(f"launch {launch.name}: several phases in one launch are not generated for CUDA yet.")
    (phase,) = launch.body
    lanes = [lane for lane in phase.lanes if lane.items]
    if len(lanes) != 1 or len(lanes[0].items) != 1:
        raise InternalError(f"launch {launch.name}: several tasks side by side are not generated for CUDA yet.")
    (task,) = lanes[0].items
    if not isinstance(task, Task) or task.first != Var(UNIT) or task.count != const(1) or lanes[0].first != 0:
        raise InternalError(f"launch {launch.name}: a unit must run the task of its own number on CUDA.")
    kernel = host.device[task.kernel]
    if not isinstance(lanes[0].units, Const) or int(lanes[0].units.value) != kernel.grid:
        raise InternalError(f"launch {launch.name}: {lanes[0].units} units for {kernel.grid} tasks.")
    host.launch(kernel, task.args)
