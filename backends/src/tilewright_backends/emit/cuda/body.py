"""Statements of one CUDA kernel under construction: dynamic shared memory, tensor maps, device functions."""

from __future__ import annotations

import attrs
import tvm
from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.ir import PointerType, PrimType
from tvm.script import tirx as script
from tvm.tirx import op as tir_op

from tilewright.errors import InternalError
from tilewright.ir.bounds import bounds_of
from tilewright.ir.expr import Expr
from tilewright_backends.emit.cuda.ptx import (
    AFRESH,
    CP_ASYNC,
    CP_ASYNC_COMMIT,
    CP_ASYNC_IF,
    IN_GLOBAL,
    MEMBER_BARRIER,
    cp_async_wait,
)
from tilewright_backends.emit.cuda.semantics import CudaSemantics
from tilewright_backends.emit.gpu.body import GpuBody, i32, pointer
from tilewright_backends.lower.types import Prim, convert, element

SHARED = "shared.dyn"


@attrs.frozen
class TensorMap:
    """How the tensor memory accelerator finds boxes of an array, swizzled by 128 bytes in shared memory.

    Args:
        value: name of the value.
        dtype: of its elements.
        offset: first element.
        shape: (extent, stride in elements) of each dimension, the one along memory first.
        box: extents of a box. What lies outside of the array is zero.
    """

    value: str
    dtype: str
    offset: int
    shape: tuple[tuple[int, int], ...]
    box: tuple[int, ...]


class Body(GpuBody):
    """Collects the statements of one CUDA kernel.

    Args:
        member: whether it is a member of a persistent kernel: its threads are the first ones of a block that may have
            more, and `sync` is a barrier of these alone.

    Attributes:
        maps: the tensor maps that it takes, and the parameter of each.

    Shared memory is one dynamic allocation.
    """

    warp = 32
    semantics = CudaSemantics()
    asynchronous = True

    def __init__(self, threads: int, tasks: int, member: bool = False) -> None:
        super().__init__(threads, tasks)
        self.member = member
        self.maps: dict[TensorMap, Prim] = {}
        self._shared = tirx.Var("shared", PointerType(PrimType("uint8"), SHARED))

    @property
    def launched_bytes(self) -> int:
        return self.shared_bytes

    def take(self, name: str, address: Prim, dtype: str, count: int) -> None:
        if self.member:
            self.call("tw_in_global", address, source=IN_GLOBAL)
        super().take(name, address, dtype, count)

    def afresh(self, expr: Expr, hint: str) -> Expr:
        """`expr` as a new variable: what follows from it is computed here, not kept in registers from earlier code."""
        value = self.call("tw_afresh", self.index(self.simplify(expr), "int32"), source=AFRESH, result="int32")
        return self.define(hint, self.bind(value, hint), bounds_of(self.simplify(expr), self.bounds))

    def bind(self, value: Prim, hint: str = "t") -> Prim:
        """A CUDA variable holding `value`, so that it is computed once."""
        if isinstance(value, tirx.Var | tirx.IntImm | tirx.FloatImm):
            return value
        return self.let(value, hint)

    def shared(self, dtype: str, count: int, hint: str = "tile", align: int = 16) -> Prim:
        kind = tvm.DataType(dtype)
        offset = -(-self.shared_bytes // align) * align
        self.shared_bytes = offset + count * kind.bits * kind.lanes // 8
        data = pointer(self.unique(hint), dtype, SHARED)
        address = tir_op.handle_add_byte_offset(self._shared, i32(offset))
        self.emit(tirx.Bind(data, tir_op.call_intrin(data.ty, "tirx.reinterpret", address)))
        return self.view(data, dtype, count)

    def tensor_map(self, tensor_map: TensorMap) -> Prim:
        """The parameter that holds a tensor map."""
        if tensor_map not in self.maps:
            self.maps[tensor_map] = tirx.Var(self.unique("map"), script.handle("tensormap").ty)
        return self.maps[tensor_map]

    def call(self, name: str, *args: Prim, source: str, result: str = "") -> Prim:
        """A call of a CUDA device function given as source. Without a result it is emitted as a statement."""
        call = cuda_func_call(name, *args, source_code=source, return_type=result or "void")
        if not result:
            self.evaluate(call)
        return call

    def sync(self) -> None:
        """A barrier of all threads of the block, or of the member."""
        if not self.member:
            self.evaluate(tir_op.tvm_storage_sync("shared"))
            return
        if self.threads % self.warp:
            raise InternalError(f"{self.threads} threads, which are no whole warps, cannot wait for each other alone.")
        self.call("tw_member_barrier", i32(self.threads), source=MEMBER_BARRIER)

    def warp_sync(self) -> None:
        self.call("__syncwarp", source="")

    def across(self, value: Prim, distance: int) -> Prim:
        return self.call("__shfl_xor_sync", i32(-1), value, i32(distance), source="", result=element(value))

    def from_lane(self, value: Prim, lane: Prim) -> Prim:
        return self.call("__shfl_sync", i32(-1), value, lane, source="", result=element(value))

    def copy_ahead(self, to: Prim, source: Prim, size: Prim, mine: Prim | None) -> None:
        if mine is None:
            self.call("tw_cp_async_16", to, source, size, source=CP_ASYNC)
        else:
            self.call("tw_cp_async_16_if", to, source, size, convert(mine, "int32"), source=CP_ASYNC_IF)

    def copies_end(self) -> None:
        self.call("tw_cp_async_commit", source=CP_ASYNC_COMMIT)

    def wait_for_copies(self, groups: int) -> None:
        name, source = cp_async_wait(groups)
        self.call(name, source=source)
        self.sync()

    def finish(self) -> Prim:
        """The whole body as one statement."""
        body = super().finish()
        if self.shared_bytes:
            raw = tirx.decl_buffer(
                (self.shared_bytes,), "uint8", "shared_memory", scope=SHARED, layout=None, data_alignment=1024
            )
            start = tirx.Bind(self._shared, raw.data)
            body = tirx.SeqStmt([tirx.AllocBuffer(raw), start, body])
        return body
