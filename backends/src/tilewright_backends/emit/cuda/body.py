"""Statements of one CUDA kernel under construction: threads, registers, shared memory, barriers, device functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import tvm
from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.ir import PointerType, PrimType
from tvm.script import tirx as script
from tvm.tirx import op as tir_op

from tilewright.errors import InternalError
from tilewright.ir.bounds import Interval, bounds_of
from tilewright.ir.expr import Const, Expr, Extent, Var, const
from tilewright_backends.emit.cuda.ptx import AFRESH, MEMBER_BARRIER
from tilewright_backends.lower.code import Code, sequence
from tilewright_backends.lower.types import Prim

SHARED = "shared.dyn"
_WARP = 32


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


def i32(value: int) -> Prim:
    """An int32 literal."""
    return tirx.IntImm("int32", value)


def pointer(name: str, dtype: str, scope: str = "global") -> Prim:
    """A pointer variable to elements of `dtype`."""
    return tirx.Var(name, PointerType(PrimType(dtype), scope))


class Body(Code):
    """Collects the statements of one kernel.

    Args:
        threads: threads of a block.
        tasks: number of tasks; a task is what one block does.
        member: whether it is a member of a persistent kernel: its threads are the first ones of a block that may have
            more, and `sync` is a barrier of these alone.

    Attributes:
        thread: the thread's number in the block, as a variable of the tile IR.
        task: the task's number, likewise.
        params: flat buffer of each value that the kernel takes a pointer to, by value name.
        maps: the tensor maps that it takes, and the parameter of each.
        together: how many blocks of a multiprocessor the assembler leaves registers for. It spills none but what these
            would not have; with 0, it may spill some so that more blocks fit.

    All indices are into flat buffers. Shared memory is one dynamic allocation; every buffer in it has its own bytes.
    """

    def __init__(self, threads: int, tasks: int, member: bool = False) -> None:
        super().__init__()
        self.threads = threads
        self.member = member
        self.tasks = tasks
        self.params: dict[str, Prim] = {}
        self.maps: dict[TensorMap, Prim] = {}
        self.shared_bytes = 0
        self.together = 0
        self.thread_var = tirx.Var("tid", "int32")
        self.task_var = tirx.Var("task", "int32")
        self.thread: Expr = self.define("tid", self.thread_var, Interval(0, threads - 1))
        self.task: Expr = self.define("task", self.task_var, Interval(0, tasks - 1))
        self._shared = tirx.Var("shared", PointerType(PrimType("uint8"), SHARED))

    def below(self, number: Expr, total: Extent) -> Prim | None:
        """The condition `number < total`, or None where it always holds."""
        condition = self.simplify(number < total)
        if isinstance(condition, Const) and condition.value:
            return None
        return self.bind(self.index(condition), "inside")

    def hold(self, expr: Expr, hint: str) -> Expr:
        """`expr` computed once: a variable of the tile IR with its bounds, or the expression itself if it is a leaf."""
        short = self.simplify(expr)
        if isinstance(short, (Const, Var)):
            return short
        return self.define(hint, self.bind(self.index(short), hint), bounds_of(short, self.bounds))

    def afresh(self, expr: Expr, hint: str) -> Expr:
        """`expr` as a new variable: what follows from it is computed here, not kept in registers from earlier code."""
        value = self.call("tw_afresh", self.index(self.simplify(expr), "int32"), source=AFRESH, result="int32")
        return self.define(hint, self.bind(value, hint), bounds_of(self.simplify(expr), self.bounds))

    @staticmethod
    def constant(value: int) -> Expr:
        """A literal of the tile IR."""
        return const(value)

    def bind(self, value: Prim, hint: str = "t") -> Prim:
        """A CUDA variable holding `value`, so that it is computed once."""
        if isinstance(value, tirx.Var | tirx.IntImm | tirx.FloatImm):
            return value
        return self.let(value, hint)

    def registers(self, dtype: str, count: int, hint: str = "reg") -> Prim:
        """Registers: an array that is only indexed by constants once loops are unrolled."""
        buffer = tirx.decl_buffer((count,), dtype, self.unique(hint), scope="local", layout=None)
        self.emit(tirx.AllocBuffer(buffer))
        return buffer

    def shared(self, dtype: str, count: int, hint: str = "tile", align: int = 16) -> Prim:
        """A buffer of the block's shared memory, at a multiple of `align` bytes (at most 1024)."""
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

    def view(self, data: Prim, dtype: str, count: int) -> Prim:
        """A flat buffer over a pointer; `dtype` may be a vector type such as `float32x4`."""
        buffer = tirx.decl_buffer((count,), dtype, self.unique("view"), data=data, layout=None)
        self.emit(tirx.DeclBuffer(buffer, data=data))
        return buffer

    def vectors(self, buffer: Prim, lanes: int) -> Prim:
        """`buffer` seen as vectors of `lanes` elements."""
        if lanes == 1:
            return buffer
        return self.view(buffer.data, f"{buffer.dtype}x{lanes}", -(-int(buffer.shape[0]) // lanes))

    def store(self, buffer: Prim, index: Prim, value: Prim) -> None:
        self.emit(tirx.BufferStore(buffer, value, [index]))

    def call(self, name: str, *args: Prim, source: str, result: str = "") -> Prim:
        """A call of a CUDA device function given as source. Without a result it is emitted as a statement."""
        call = cuda_func_call(name, *args, source_code=source, return_type=result or "void")
        if not result:
            self.evaluate(call)
        return call

    @contextmanager
    def repeat(self, extent: int, hint: str = "i", *, unroll: bool = True) -> Iterator[Prim]:
        """`for hint in range(extent)` whose variable is used in TIR directly."""
        with self.loop(hint, extent, "unrolled" if unroll else "serial") as counter:
            yield self.index(counter, "int32")

    @contextmanager
    def branches(self, condition: Prim | None) -> Iterator[Callable[[], None]]:
        """`if condition: … else: …`; calling what it yields starts the second block. With None there is no branch."""
        if condition is None:
            yield lambda: None
            return
        self._frames.append([])
        blocks: list[Prim] = []

        def otherwise() -> None:
            blocks.append(sequence(self._frames.pop()))
            self._frames.append([])

        yield otherwise
        second = sequence(self._frames.pop())
        if len(blocks) != 1:
            raise InternalError("a two-way branch needs exactly two blocks.")
        self.emit(tirx.IfThenElse(condition, blocks[0], second))

    def sync(self) -> None:
        """A barrier of all threads of the block, or of the member."""
        if not self.member:
            self.evaluate(tir_op.tvm_storage_sync("shared"))
            return
        if self.threads % _WARP:
            raise InternalError(f"{self.threads} threads, which are no whole warps, cannot wait for each other alone.")
        self.call("tw_member_barrier", i32(self.threads), source=MEMBER_BARRIER)

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
