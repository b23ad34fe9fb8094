"""Selections by sorting: a block fills a piece of shared memory with elements and sorts it, best first.

Then it overwrites all but the best `count` with the next elements of the row and sorts again, until the row ends. The
order of comparisons is the bitonic network's (K. E. Batcher, 1968). Slots beyond the row hold an element that comes
after every other one.
"""

from __future__ import annotations

import math

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr
from tilewright.ir.ops import Routine
from tilewright.ir.program import Kernel
from tilewright_backends.emit.gpu.body import GpuBody, i32
from tilewright_backends.lower.order import Element, beats
from tilewright_backends.lower.types import Prim, carrier, from_storage, literal, storage, to_storage
from tilewright_backends.recipes.selection import TopK, topk_of

_NOWHERE = (1 << 31) - 1
"""Position of an element that is none; rows are shorter."""


def emit(body: GpuBody, kernel: Kernel, routine: Routine) -> None:
    """The code of one task of a kernel: one row."""
    found = topk_of(routine)
    if found is None:
        raise InternalError(f"topk_sort does not take kernel {kernel.name}.")
    _Row(body, routine, found, kernel.choice["piece"]).run()


class _Row:
    def __init__(self, body: GpuBody, routine: Routine, found: TopK, piece: int) -> None:
        self.body = body
        self.routine = routine
        self.found = found
        self.piece = piece
        self.dtype = routine.inputs[0].dtype
        self.values = body.shared(storage(self.dtype), piece, "values")
        self.places = body.shared("int32", piece, "places")

    def run(self) -> None:
        body, found, piece = self.body, self.found, self.piece
        # Slot s takes element s + round * fresh; from the second round on the first `count` slots are taken.
        fresh = piece - found.count
        rounds = 1 + max(-(-(found.length - piece) // fresh) if found.length > piece else 0, 0)
        with body.loop("round", rounds) as number:
            with body.loop("fill", piece // body.threads) as trip:
                slot = body.hold(trip * body.threads + body.thread, "slot")
                place = body.hold(number * fresh + slot, "place")
                with body.when(body.index((number < 1) | (slot >= found.count))):
                    self._fill(slot, place)
            body.sync()
            self._sort()
        self._write()

    def _fill(self, slot: Expr, place: Expr) -> None:
        body, source = self.body, self.routine.inputs[0]
        at = body.index(slot, "int32")
        with body.branches(body.index(place < self.found.length)) as otherwise:
            element = body.params[source.name][body.index(body.task * self.found.length + place)]
            body.store(self.values, at, element)
            body.store(self.places, at, body.index(place, "int32"))
            otherwise()
            body.store(self.values, at, to_storage(self._last(), self.dtype))
            body.store(self.places, at, i32(_NOWHERE))

    def _last(self) -> Prim:
        """A value that no other comes after."""
        if dtypes.is_float(self.dtype):
            return literal(-math.inf if self.found.largest else math.nan, carrier(self.dtype))
        low, high = dtypes.integer_range(self.dtype)
        return literal(low if self.found.largest else high, carrier(self.dtype))

    def _sort(self) -> None:
        """Sorted runs of alternating direction double until one is left; a run is merged from the widest stride on."""
        body, pairs = self.body, self.piece // 2
        with body.loop("run", self.piece.bit_length() - 1) as run, body.loop("merge", run + 1) as merge:
            length = body.bind(tirx.shift_left(i32(2), body.index(run, "int32")), "length")
            stride = body.bind(tirx.shift_left(i32(1), body.index(run - merge, "int32")), "stride")
            with body.loop("pair", pairs // body.threads) as trip:
                pair = body.bind(body.index(trip * body.threads + body.thread, "int32"), "pair")
                near = tirx.bitwise_and(pair, tirx.Sub(stride, i32(1)))
                low = body.bind(tirx.Sub(tirx.Mul(pair, i32(2)), near), "low")
                high = body.bind(tirx.Add(low, stride), "high")
                self._order(low, high, tirx.EQ(tirx.bitwise_and(low, length), i32(0)))
            body.sync()

    def _order(self, low: Prim, high: Prim, forward: Prim) -> None:
        """Swaps two elements unless the first is the better one, or the worse one if the run goes backward."""
        body = self.body
        here, there = self._element(low), self._element(high)
        behind = body.bind(beats(there, here, self.dtype, self.found.largest), "behind")
        with body.when(tirx.Select(forward, behind, tirx.Not(behind))):
            for buffer in (self.values, self.places):
                kept = body.bind(buffer[low], "kept")
                body.store(buffer, low, buffer[high])
                body.store(buffer, high, kept)

    def _element(self, slot: Prim) -> Element:
        value = from_storage(self.values[slot], self.dtype)
        return self.body.bind(value), self.body.bind(self.places[slot])

    def _write(self) -> None:
        body, (values, indices) = self.body, self.routine.outputs
        with body.loop("write", -(-self.found.count // body.threads)) as trip:
            slot = body.hold(trip * body.threads + body.thread, "slot")
            inside = body.below(slot, self.found.count)
            with body.when(literal(True, "bool") if inside is None else inside):
                at = body.index(slot, "int32")
                target = body.bind(body.index(body.task * self.found.count + slot), "target")
                body.store(body.params[values.name], target, self.values[at])
                body.store(body.params[indices.name], target, tirx.Cast("int64", self.places[at]))
