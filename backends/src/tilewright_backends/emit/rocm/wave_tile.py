"""The part of a block's result that one wave computes on a matrix unit, from swizzled tiles in shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

import attrs

from tilewright.ir.expr import Expr, const
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.emit.gpu.half_tiles import Fragments, HalfTilePlan
from tilewright_backends.emit.gpu.neighbours import store_neighbours
from tilewright_backends.emit.gpu.points import count, decompose, point_at, whole
from tilewright_backends.emit.rocm.body import RocmBody
from tilewright_backends.emit.rocm.fragments import Lanes, group_of
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.point import Point
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.contraction import Contraction
from tilewright_backends.recipes.rocm.units import SIDE, Unit


@attrs.frozen
class Held:
    """The sums that a lane has: rows, each with runs of neighbouring columns.

    Args:
        sums: registers, instruction after instruction, those of 16 rows together.
        unit: what computes them.
        row: the lane's first row.
        column: its first column.
        rows, columns: instructions along each.
        row_group, column_group: how many of them take their points in turn (`emit.rocm.fragments`).
    """

    sums: Prim
    unit: Unit
    row: Expr
    column: Expr
    rows: int
    columns: int
    row_group: int
    column_group: int

    def rows_held(self) -> list[tuple[int, int]]:
        """Distance of each row from the first one, and the number of its instruction."""
        group = self.row_group
        return [(i // group * SIDE * group + i % group, i) for i in range(self.rows)]

    @property
    def run(self) -> int:
        """Columns of a run."""
        return self.unit.sums * self.column_group

    def runs(self) -> list[int]:
        """Distance of each run from the first one."""
        return [j * SIDE for j in range(0, self.columns, self.column_group)]

    def place(self, instruction: int, run: int, point: int) -> int:
        """The number of the sum at a point of a run, in an instruction's row."""
        of_group, turn = divmod(point, self.column_group)
        column = run // SIDE + turn
        return (instruction * self.columns + column) * self.unit.sums + of_group


def store_held(body: RocmBody, spec: FlatSpec, c: Contraction, batch: Mapping[str, Expr], held: Held) -> None:
    """Runs the epilogue at every point of a lane's sums, at neighbouring columns together."""
    inner = c.n[-1] if c.n else None
    lanes = 1 if inner is None else next(x for x in (8, 4, 2, 1) if held.run % x == 0 and whole(inner.extent, x))
    m_total, n_total = count(c.m), count(c.n)
    columns = []
    for run in held.runs():
        for e in range(0, held.run, lanes):
            at = body.hold(held.column + (run + e), "n")
            columns.append((run, e, decompose(at, c.n, body), body.below(at, n_total)))
    for distance, instruction in held.rows_held():
        row = body.hold(held.row + distance, "m")
        inside = body.below(row, m_total)
        with nullcontext() if inside is None else body.when(inside):
            at_row = decompose(row, c.m, body)
            for run, first, at_column, there in columns:
                with nullcontext() if there is None else body.when(there):
                    sums = partial(_sums, held, instruction, run, first)
                    here = {**batch, **at_row, **at_column}
                    if inner is not None:
                        store_neighbours(body, spec, here, inner, lanes, sums, spec.body_reads)
                        continue
                    point = point_at(body, spec, here, [held.sums[i32(held.place(instruction, run, first))]])
                    for store in spec.stores:
                        point.store(store)


def _sums(held: Held, instruction: int, run: int, first: int, lane: int, _: Point) -> list[Prim]:
    return [held.sums[i32(held.place(instruction, run, first + lane))]]


class WaveTile:
    """The sums of a wave: `wave` rows and columns of the result, of a block with `across` waves side by side.

    Args:
        rows, columns: how the tiles that are multiplied lie.
    """

    def __init__(
        self,
        body: RocmBody,
        unit: Unit,
        wave: tuple[int, int],
        across: int,
        rows: HalfTilePlan,
        columns: HalfTilePlan,
    ) -> None:
        self.body, self.unit, self.dtype = body, unit, rows.operand.dtype
        self.lanes = Lanes(body, unit)
        number = body.hold(body.thread // body.warp, "wave")
        self.m_first = body.hold(number // across * wave[0], "m_first")
        self.n_first = body.hold(number % across * wave[1], "n_first")
        self.m_count, self.n_count = (x // SIDE for x in wave)
        self.m_group, self.n_group = group_of(unit, rows, self.m_count), group_of(unit, columns, self.n_count)
        self.sums = body.registers("float32", self.m_count * self.n_count * unit.sums, "sum")
        storage = types.storage(self.dtype)
        self._rows = body.registers(storage, self.m_count * unit.held, "rows")
        self._columns = body.registers(storage, self.n_count * unit.held, "columns")

    def clear(self) -> None:
        """Starts the sums at zero."""
        self.lanes.clear(self.sums)

    def multiply(self, rows: Fragments, columns: Fragments) -> None:
        """Adds the products of two tiles."""
        lanes = Lanes(self.body, self.unit, afresh=True)
        for kk in range(0, rows.plan.step, SIDE):
            self.body.in_order()
            for i in range(0, self.m_count, self.m_group):
                outer = self.m_first + i * SIDE
                lanes.load(rows, outer, const(kk), self._rows, i, columns=False, group=self.m_group)
            for j in range(0, self.n_count, self.n_group):
                outer = self.n_first + j * SIDE
                lanes.load(columns, outer, const(kk), self._columns, j, columns=True, group=self.n_group)
            for i in range(self.m_count):
                for j in range(self.n_count):
                    lanes.multiply(self.dtype, self.sums, i * self.n_count + j, self._columns, j, self._rows, i)

    def held(self, row: Expr, column: Expr) -> Held:
        """Where a lane's sums stand in a result whose block begins at a row and a column."""
        row = row + self.m_first + self.lanes.low * self.m_group
        column = column + self.n_first + self.lanes.first * self.n_group
        counts = (self.m_count, self.n_count, self.m_group, self.n_group)
        return Held(self.sums, self.unit, row, column, *counts)

    def store(self, spec: FlatSpec, roles: Contraction, batch: Mapping[str, Expr], row: Expr, column: Expr) -> None:
        """Runs the epilogue at every point, where the block begins at a row and a column of the result."""
        store_held(self.body, spec, roles, batch, self.held(row, column))
