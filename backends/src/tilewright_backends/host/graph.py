"""Loops and branches that the device decides, in the host function.

The code is the same whether the stream is being captured into a graph or not, which functions in the library find out
(`capture.py`). Under capture the body of a loop is gone through once, and so are both sides of a branch; else the host
reads from the cell what the device has decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.ir import PointerType, PrimType

from tilewright.ir.program import HostCopy, HostIf, HostLoop, HostSet
from tilewright_backends.buffers import CELL_BYTES, CELLS
from tilewright_backends.build.cuda.graph import BEGIN, BRANCH, GOES_ON, NEXT, Counted, Key, counted_by
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.lower.code import sequence
from tilewright_backends.lower.types import Prim

if TYPE_CHECKING:
    from tilewright_backends.host.cuda import CudaHost
    from tilewright_backends.host.function import Emit

_ENDLESS = (1 << 63) - 1


class DeviceControl:
    """Emits the loops and branches that the device decides, and what is written by their counters.

    Args:
        host: the host function under construction.
        written: the kernels of what is written by counters.
    """

    def __init__(self, host: CudaHost, written: Mapping[Key, Counted]) -> None:
        self.host = host
        self.code = host.code
        self.written = written
        self._cells = 0
        self._cell_of: dict[str, Prim] = {}

    def loop(self, step: HostLoop, emit: Emit) -> None:
        """A loop: its first decision, then trips with a decision at the end of each."""
        host, code = self.host, self.code
        cell = self._new_cell()
        captured, handle = self._conditional()
        condition = self._given(step.condition, "int8")
        most = tirx.const(_ENDLESS, "int64") if step.trip is None else code.index(step.trip, "int64")
        limit = self._given(step.limit, "int64")
        host.launch(BEGIN, (_at(cell), limit, condition, most, captured, handle))
        self._cell_of[step.counter] = cell
        with code.scope() as body:
            emit()
            host.launch(NEXT, (_at(cell), condition, captured, handle))
        again = tirx.call_extern("int32", "tw_graph_again", captured, handle, _at(cell, GOES_ON))
        code.emit(tirx.While(tirx.NE(again, i32(0)), sequence(body)))

    def branch(self, step: HostIf, then: Emit, orelse: Emit) -> None:
        """A branch, of the sides that have steps."""
        host, code = self.host, self.code
        cell = self._new_cell()
        given = [emit for emit, steps in ((then, step.then), (orelse, step.orelse)) if steps]
        if not given:
            return
        captured, handle = self._conditional()
        wanted = tirx.const(int(bool(step.then)), "int64")
        host.launch(BRANCH, (_at(cell), self._given(step.condition, "int8"), wanted, captured, handle))
        call = tirx.call_extern("int32", "tw_graph_sides", captured, handle, _at(cell, GOES_ON), i32(len(given)))
        sides = code.let(call, "sides")
        for number, emit in enumerate(given):
            with code.when(tirx.NE(tirx.bitwise_and(sides, i32(1 << number)), i32(0))):
                code.evaluate(tirx.call_extern("int32", "tw_graph_enter", captured, i32(number)))
                emit()
                code.evaluate(tirx.call_extern("int32", "tw_graph_leave", captured))
        code.evaluate(tirx.call_extern("int32", "tw_graph_joined", captured))

    def write(self, step: HostSet | HostCopy) -> bool:
        """Emits what is written by the counter of a loop that the device decides; False for any other step."""
        found = counted_by(step, self.host.program, self.written)
        if found is None:
            return False
        pointers = [step.target] if isinstance(step, HostSet) else [step.source, step.target]
        cells = [_at(self._cell_of[x]) for x in found.counters]
        numbers = [tirx.Cast("int64", self.code.env[x]) for x in found.numbers]
        self.host.launch(found.kernel, [*map(self.host.pointer, pointers), *cells, *numbers])
        return True

    def _new_cell(self) -> Prim:
        offset = self._cells * CELL_BYTES
        self._cells += 1
        return self.code.let(tirx.Add(self.host.entry(CELLS), tirx.const(offset, "uint64")), "cell")

    def _conditional(self) -> Sequence[Prim]:
        """Whether the stream is captured, and the handle of a new conditional of its graph."""
        captured = self.code.let(tirx.call_extern("int64", "tw_graph_captured"), "captured")
        return captured, self.code.let(tirx.call_extern("int64", "tw_graph_handle", captured), "handle")

    def _given(self, name: str, dtype: str) -> Prim:
        """A pointer to a value, null where there is none."""
        return self.host.pointer(name) if name else tirx.reinterpret(_pointer(dtype), tirx.const(0, "uint64"))


def _pointer(dtype: str) -> PointerType:
    return PointerType(PrimType(dtype))


def _at(cell: Prim, offset: int = 0) -> Prim:
    address = tirx.Add(cell, tirx.const(offset, "uint64")) if offset else cell
    return tirx.reinterpret(_pointer("int64"), address)
