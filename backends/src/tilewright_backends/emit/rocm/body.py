"""Statements of one ROCm kernel under construction, in the form that TVM's AMDGPU code generator takes.

Memory on chip is declared in front of the kernel, so that unrolled loops do not declare it again. It is read and
written as another type through functions (`functions`), for the generator takes every declared view for global memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import tvm
from tvm import tirx
from tvm.ir import PointerType
from tvm.tirx import op as tir_op

from tilewright.ir.bounds import Interval, bounds_of
from tilewright.ir.expr import Const, Expr
from tilewright_backends.emit.gpu.body import GpuBody, i32
from tilewright_backends.emit.rocm.functions import SPACES
from tilewright_backends.emit.rocm.semantics import RocmSemantics
from tilewright_backends.lower.code import Code
from tilewright_backends.lower.types import Prim, element


@attrs.frozen
class View:
    """A buffer on chip, or a part of one, seen as words of a type; it is indexed and stored to like a buffer.

    Args:
        first: element of the buffer that it begins at.
    """

    buffer: Prim
    dtype: str
    shape: tuple[int, ...]
    first: int = 0

    def scope(self) -> str:
        return str(self.buffer.scope())

    @property
    def start(self) -> Prim:
        return tir_op.address_of(self.buffer[i32(self.first)])

    def _name(self, what: str) -> str:
        return f"tw_{what}_{self.buffer.scope()}_{self.dtype}"

    def __getitem__(self, index: Prim) -> Prim:
        return tirx.call_extern(self.dtype, self._name("load"), self.start, tirx.Cast("int32", index))

    def put(self, index: Prim, value: Prim) -> Prim:
        """The call that stores."""
        return tirx.call_extern("void", self._name("store"), self.start, tirx.Cast("int32", index), value)


class RocmBody(GpuBody):
    """Collects the statements of one ROCm kernel. The size of its shared memory is part of the machine code.

    Args:
        arch: such as `gfx942`.
        warp: lanes of a wave.
        shared: words of 16 bytes in shared memory that this kernel has one instead of others; None: what it takes is
            its own.
    """

    semantics = RocmSemantics()

    def __init__(self, threads: int, tasks: int, arch: str, warp: int, shared: Prim | None = None) -> None:
        super().__init__(threads, tasks)
        self.arch, self.warp = arch, warp
        self._declared: list[Prim] = []
        self._shared = shared

    @contextmanager
    def loop(self, hint: str, extent: int | Expr, kind: str = "serial") -> Iterator[Expr]:
        """As elsewhere; LLVM does not see how many trips a serial loop has.

        It writes out loops over registers of up to some hundred instructions, and then loads for all trips at once.
        """
        if isinstance(extent, Const):
            extent = int(extent.value)
        if kind == "serial" and isinstance(extent, int) and extent > 1:
            trips = self.bind(self.call("tw_trips", i32(extent), result="int32"), "trips")
            extent = self.define("trips", trips, Interval(extent, extent))
        with super().loop(hint, extent, kind) as variable:
            yield variable

    def bind(self, value: Prim, hint: str = "t") -> Prim:
        """A register holding `value`; TVM's own variables are slow over chains of selects (`Code.bind`)."""
        return Code.bind(self, value, hint)

    def let(self, value: Prim, hint: str) -> Prim:
        return self.bind(value, hint)

    def local(self, hint: str, dtype: str, elements: int) -> Prim:
        return self.registers(dtype, elements, hint)

    def registers(self, dtype: str, count: int, hint: str = "reg") -> Prim:
        buffer = tirx.decl_buffer(
            (count,), dtype, self.unique(hint), scope="local", layout=None, data_alignment=_alignment(dtype)
        )
        self._declared.append(tirx.AllocBuffer(buffer))
        return buffer

    def shared(self, dtype: str, count: int, hint: str = "tile", align: int = 16) -> Prim:
        kind = tvm.DataType(dtype)
        name, align = self.unique(hint), max(align, 16)
        offset = -(-self.shared_bytes // align) * align
        self.shared_bytes = offset + count * kind.bits * kind.lanes // 8
        if self._shared is not None:
            return View(self._shared, dtype, (count,), offset // 16)
        buffer = tirx.decl_buffer((count,), dtype, name, scope="shared", layout=None, data_alignment=align)
        self._declared.append(tirx.AllocBuffer(buffer))
        return buffer

    def view(self, of: Prim, dtype: str, count: int) -> Prim:
        if isinstance(of, View):
            return View(of.buffer, dtype, (count,), of.first)
        if not isinstance(of.ty, PointerType) and of.scope() in SPACES:
            return of if str(of.dtype) == dtype else View(of, dtype, (count,))
        return super().view(of, dtype, count)

    def loaded(self, buffer: Prim, index: Prim) -> Prim:
        return buffer[index] if isinstance(buffer, View) else super().loaded(buffer, index)

    def storing(self, buffer: Prim, index: Prim, value: Prim) -> Prim:
        if isinstance(buffer, View):
            return tirx.Evaluate(buffer.put(index, value))
        return super().storing(buffer, index, value)

    def call(self, name: str, *args: Prim, result: str = "") -> Prim:
        """A call of a device function. Without a result it is emitted as a statement."""
        call = tirx.call_extern(result or "void", name, *args)
        if not result:
            self.evaluate(call)
        return call

    def sync(self) -> None:
        self.call("tw_barrier")

    def warp_sync(self) -> None:
        self.call("tw_wave_barrier")

    def in_order(self) -> None:
        self.call("tw_in_order")

    def settled(self, value: Prim) -> Prim:
        return self.call(f"tw_settled_{element(value)}", value, result=element(value))

    def settle(self, registers: Prim, first: int, count: int) -> None:
        for place in map(i32, range(first, first + count)):
            self.store(registers, place, self.settled(registers[place]))

    def afresh(self, expr: Expr, hint: str) -> Expr:
        """`expr` as a new variable: what follows from it is computed here, not kept in registers from earlier code."""
        short = self.simplify(expr)
        value = self.settled(self.index(short, "int32"))
        return self.define(hint, self.bind(value, hint), bounds_of(short, self.bounds))

    def across(self, value: Prim, distance: int) -> Prim:
        return self.call(f"tw_across_{element(value)}", value, i32(distance), result=element(value))

    def from_lane(self, value: Prim, lane: Prim) -> Prim:
        dtype = element(value)
        return self.call(f"tw_of_lane_{dtype}", value, tirx.Cast("int32", lane), result=dtype)

    def finish(self) -> Prim:
        """The whole body as one statement."""
        return tirx.SeqStmt([*self._declared, super().finish()])


def _alignment(dtype: str) -> int:
    kind = tvm.DataType(dtype)
    return max(kind.bits * kind.lanes // 8, 16)
