"""Fragments of 16-bit operands in registers, as AMD's matrix units take them, and products of fragments.

The unit's rows are columns of a result and its columns rows of it, so that a lane has neighbouring columns of a row.
Operands that lie along the reduction are read from shared memory in vectors. Of the others a lane reads neighbouring
outer points at once, which are then the same row (or column) of neighbouring instructions: a group of those takes 16
times as many points, dealt out in turn.
"""

from __future__ import annotations

from tvm.tirx import op as tir_op

from tilewright.ir.expr import Expr
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.emit.gpu.half_tiles import Fragments, HalfTilePlan
from tilewright_backends.emit.rocm.body import RocmBody
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.tensor import CHUNK
from tilewright_backends.recipes.rocm.units import SIDE, Unit

_MOST = 32
"""Elements that a lane reads before it sorts them into fragments: 16 registers."""


def group_of(unit: Unit, plan: HalfTilePlan, tiles: int) -> int:
    """How many neighbouring instructions out of `tiles` take their outer points in turn."""
    if plan.along_k:
        return 1
    return next(x for x in (8, 4, 2, 1) if tiles % x == 0 and x * unit.held <= max(_MOST, unit.held))


class Lanes:
    """What the lanes of a wave do with a matrix unit.

    Args:
        afresh: whether places are computed here, not kept in registers from earlier code, on RDNA, whose lanes have
            256 registers.

    Attributes:
        lane: the thread's number in its wave.
        low: the row (of the result) that a lane has of each 16.
        first: the first of the neighbouring columns that it has of each 16.
        dealt: the column of which it has elements of an operand.
    """

    def __init__(self, body: RocmBody, unit: Unit, afresh: bool = False) -> None:
        self.body, self.unit = body, unit
        find = body.afresh if afresh and body.warp == 2 * SIDE else body.hold
        self.lane = find(body.thread % body.warp, "lane")
        self.low = body.hold(self.lane % SIDE, "low")
        self.first = body.hold(self.lane // SIDE * unit.sums, "first")
        self.dealt = body.hold(unit.dealt(self.low), "dealt")
        self._pieces: dict[tuple[str, int], Prim] = {}

    def load(
        self,
        tile: Fragments,
        outer: Expr,
        k: Expr,
        into: Prim,
        number: int,
        *,
        columns: bool,
        group: int = 1,
        turned: bool = False,
    ) -> None:
        """Loads `group` fragments: 16 outer points each from `outer` on, at 16 points of the reduction from `k` on.

        Args:
            into, number: where the first one is stored, in fragments.
            columns: whether outer points are columns of the result.
            turned: whether the tile's outer points are those summed over, and the others follow each other.
        """
        mine = self.dealt if columns else self.low
        if tile.plan.along_k != turned:
            for t in range(group):
                self._vectors(tile, outer + (mine + t * SIDE), k, into, number + t, turned)
        else:
            self._neighbours(tile, outer + mine * group, k, into, number, group, turned)

    def _place(self, tile: Fragments, outer: Expr, k: Expr, turned: bool) -> Prim:
        """The element of shared memory that has an outer point at a point of the reduction."""
        body, plan = self.body, tile.plan
        if turned:
            outer, k = k, outer
        row, along = (outer, k) if plan.along_k else (k, outer)
        row, chunk, rest = (body.index(body.simplify(x)) for x in (row, along // CHUNK, along % CHUNK))
        return body.index(tile.start) + plan.element(row, chunk) + rest

    def _vectors(self, tile: Fragments, outer: Expr, k: Expr, into: Prim, number: int, turned: bool) -> None:
        body, held = self.body, self.unit.held
        outer = body.hold(outer, "outer")
        piece = min(held, CHUNK)
        words = f"uint32x{piece // 2}"
        far = body.view(tile.buffer, words, int(tile.buffer.shape[0]) // piece)
        near = body.view(into, words, int(into.shape[0]) // piece)
        for e in range(held // piece):
            place = self._place(tile, outer, k + self.unit.depth(self.lane, e * piece), turned)
            word = far[tir_op.shift_right(place, i32(piece.bit_length() - 1))]
            body.store(near, i32(number * (held // piece) + e), word)

    def _neighbours(
        self, tile: Fragments, outer: Expr, k: Expr, into: Prim, number: int, group: int, turned: bool
    ) -> None:
        body, held = self.body, self.unit.held
        outer = body.hold(outer, "outer")
        places = [self._place(tile, outer, k + self.unit.depth(self.lane, e), turned) for e in range(held)]
        if group == 1:
            for e, place in enumerate(places):
                body.store(into, i32(number * held + e), tile.buffer[place])
            return
        words = "uint32" if group == 2 else f"uint32x{group // 2}"
        piece = self._piece(str(tile.buffer.dtype), held * group)
        far = body.view(tile.buffer, words, int(tile.buffer.shape[0]) // group)
        near = body.view(piece, words, held)
        for e, place in enumerate(places):
            body.store(near, i32(e), far[tir_op.shift_right(place, i32(group.bit_length() - 1))])
        for t in range(group):
            for e in range(held):
                body.store(into, i32((number + t) * held + e), piece[i32(e * group + t)])

    def _piece(self, dtype: str, count: int) -> Prim:
        if (dtype, count) not in self._pieces:
            self._pieces[dtype, count] = self.body.registers(dtype, count, "piece")
        return self._pieces[dtype, count]

    def multiply(self, dtype: str, sums: Prim, number: int, columns: Prim, column: int, rows: Prim, row: int) -> None:
        """Adds the product of two fragments to sums; all are given by their numbers in registers."""
        unit = self.unit
        places = ((sums, number * unit.sums), (columns, column * unit.held), (rows, row * unit.held))
        self.body.call(f"tw_{unit.name}_{dtype}", *(tir_op.address_of(x[i32(place)]) for x, place in places))

    def clear(self, sums: Prim) -> None:
        """Sets sums to zero."""
        with self.body.repeat(int(sums.shape[0]), "clear") as i:
            self.body.store(sums, i, types.literal(0, "float32"))
