"""A stage of `stages` that is a product of 16-bit floats: warps with tensor cores or matrix units.

A warp takes 16 rows by up to 32 columns at a time. Fragments come element by element from wherever the operands are;
which elements a lane has is said by `StageUnit`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from tilewright.ir.expr import Expr, const, minimum
from tilewright.ir.program import Kernel
from tilewright.views.staged import StagedSpec
from tilewright_backends.emit.gpu import stages
from tilewright_backends.emit.gpu.body import GpuBody, i32
from tilewright_backends.emit.gpu.points import both, count, decompose
from tilewright_backends.emit.gpu.stage_teams import Place
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.stages import COLUMNS, DEPTH, ROWS


class StageUnit(ABC):
    """An instruction that multiplies `ROWS` rows by `piece` columns over `DEPTH` points, and what a lane has of them.

    Attributes:
        piece: columns.
        rows: those of which the lane has elements, of the operand and of the result.
        column: the one of which it has elements of the other operand.
        depths: points of the reduction at which it has elements.
        row_elements: what the rows' fragment has: numbers of a row and of a point, element after element. That of the
            columns has all points.
        sums: what the lane has of the result: the number of a row, and the column.
    """

    piece: int
    rows: Sequence[Expr]
    column: Expr
    depths: Sequence[Expr]
    row_elements: Sequence[tuple[int, int]]
    sums: Sequence[tuple[int, Expr]]

    @abstractmethod
    def multiply(self, dtype: str, sums: Prim, first: int, rows: Prim, columns: Prim) -> None:
        """Adds the product of two fragments to the sums from `first` on."""


def emit(body: GpuBody, kernel: Kernel, staged: StagedSpec, unit: Callable[[Any, Expr], StageUnit]) -> None:
    """The code of one task of `stages`, with products on tensor cores.

    Args:
        unit: that of a lane, by its number.
    """
    stages.emit(body, kernel, staged, lambda *args: _StageProduct(unit, *args).run())


class _StageProduct:
    """Emits one; the arguments are those of `Product`, after the unit."""

    def __init__(
        self,
        unit: Callable[[Any, Expr], StageUnit],
        body: GpuBody,
        spec: FlatSpec,
        slots: tuple[int, int],
        totals: tuple[int, int],
        row: Callable[[Expr], Place],
        column: Callable[[Expr], Place],
        read: Callable[[int, dict[str, Expr], Prim | None], Prim],
        store: Callable[[dict[str, Expr], Prim | None, Prim], None],
    ) -> None:
        self.body, self.spec, self.slots, self.totals = body, spec, slots, totals
        self.row, self.column, self.read, self.store = row, column, read, store
        self.dtype = spec.reads[slots[0]].value.dtype
        self.unit = unit(body, body.hold(body.thread % body.warp, "lane"))
        self.pieces = min(COLUMNS // self.unit.piece, -(-totals[1] // self.unit.piece))

    def run(self) -> None:
        """Pieces of the stage, shared out among the warps of the block."""
        body, (rows, columns) = self.body, self.totals
        width = self.pieces * self.unit.piece
        down, across = -(-rows // ROWS), -(-columns // width)
        warp, warps = body.hold(body.thread // body.warp, "warp"), body.threads // body.warp
        with body.loop("part", -(-(down * across) // warps)) as part:
            # All warps take part in every piece of the loop, for their instructions are the warp's; those that have
            # none left repeat the last one and store nothing.
            number = body.hold(part * warps + warp, "number")
            there = body.below(number, down * across)
            number = body.hold(minimum(number, const(down * across - 1)), "number")
            self._piece(body.hold(number // across * ROWS, "first"), number % across * width, there)

    def _piece(self, first: Expr, left: Expr, there: Prim | None) -> None:
        body, unit, storage = self.body, self.unit, types.storage(self.dtype)
        each = len(unit.sums)
        sums = body.registers("float32", each * self.pieces, "sum")
        with body.repeat(each * self.pieces, "clear") as i:
            body.store(sums, i, types.literal(0, "float32"))
        lines = [self.row(first + x) for x in unit.rows]
        stands = [self.column(left + unit.column + piece * unit.piece) for piece in range(self.pieces)]
        rows = body.registers(storage, len(unit.row_elements), "a")
        columns = body.registers(storage, len(unit.depths), "b")
        total = count(self.spec.reduce)
        with body.loop("step", -(-total // DEPTH)) as step:
            depths = [self._depth(step * DEPTH + x, total) for x in unit.depths]
            for place, (line, point) in enumerate(unit.row_elements):
                self._fragment(rows, place, 0, lines[line], depths[point])
            for piece in range(self.pieces):
                for place, depth in enumerate(depths):
                    self._fragment(columns, place, 1, stands[piece], depth)
                unit.multiply(self.dtype, sums, each * piece, rows, columns)
        for piece in range(self.pieces):
            for place, (line, right) in enumerate(unit.sums):
                at, inside = self.column(left + right + piece * unit.piece)
                row, valid = lines[line]
                value = sums[i32(each * piece + place)]
                self.store({**row, **at}, both(there, both(valid, inside)), value)

    def _depth(self, number: Expr, total: int) -> Place:
        """A point of the reduction; those beyond count as zero."""
        number = self.body.hold(number, "k")
        inside = self.body.below(number, total)
        if inside is not None:
            number = self.body.hold(minimum(number, const(total - 1)), "k")
        return decompose(number, self.spec.reduce, self.body), inside

    def _fragment(self, into: Prim, place: int, side: int, outer: Place, depth: Place) -> None:
        value = self.read(self.slots[side], {**outer[0], **depth[0]}, both(outer[1], depth[1]))
        self.body.store(into, i32(place), types.to_storage(value, self.dtype))
