"""Attention in one pass over the keys, on matrix units: a wave has 16 rows or several times as many, a lane one of 16.

Keys are the unit's rows, so a lane has neighbouring keys of its row. Where lanes have the next points of an operand
(MFMA, WMMA of gfx12), these are what the second product takes from it; where both halves of a wave have all points
(gfx11), the halves exchange theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, const
from tilewright.ir.program import Kernel
from tilewright.views.staged import StagedSpec
from tilewright_backends.emit.gpu.attention import OnlineAttention, Share
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.emit.rocm.body import RocmBody
from tilewright_backends.emit.rocm.fragments import Lanes, group_of
from tilewright_backends.emit.rocm.wave_tile import Held, store_held
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.flat_attention import Attention, Halves, flat_attention, halves_of
from tilewright_backends.recipes.rocm.attention import STAGES
from tilewright_backends.recipes.rocm.units import SIDE, Unit, unit_of


def emit(body: RocmBody, kernel: Kernel, staged: StagedSpec) -> None:
    """The code of one task of a kernel: a block of rows against all keys."""
    found, unit = flat_attention(staged), unit_of(body.arch)
    halves = halves_of(found) if found is not None else None
    if found is None or halves is None or unit is None:
        raise InternalError(f"rocm.attention does not take kernel {kernel.name}.")
    choice = kernel.choice
    _Emitter(body, unit, found, halves, choice["rows.block"], choice["rows.warp"], choice["keys.step"]).run()


class _Emitter(OnlineAttention):
    body: RocmBody

    def __init__(
        self, body: RocmBody, unit: Unit, found: Attention, halves: Halves, block: int, rows: int, step: int
    ) -> None:
        self.lanes = Lanes(body, unit)
        self.tiles = rows // SIDE
        distances = [x for x in (SIDE, 2 * SIDE) if x < body.warp]
        share = Share([h * SIDE for h in range(self.tiles)], unit.sums, SIDE, distances)
        super().__init__(body, found, halves, block, step, STAGES, share)
        self.unit = unit
        self.deep, self.long, self.wide = (x // SIDE for x in (self.depth, step, self.columns))
        self.group = group_of(unit, self.value.plan, self.wide)
        kind, held = types.storage(self.query.dtype), unit.held
        self.queries = body.registers(kind, self.tiles * (1 if unit.shared else self.deep) * held, "query")
        self.keys = body.registers(kind, self.long * held, "keys")
        kind = types.storage(self.value.dtype)
        self.weights = body.registers(kind, self.tiles * self.long * held, "weight")
        self.passed = body.registers(kind, unit.sums, "passed")
        self.values = body.registers(kind, self.group * held, "values")

    def mine(self) -> tuple[Expr, Expr]:
        self.wave_row = self.body.hold(self.body.thread // self.body.warp * (self.tiles * SIDE), "first")
        return self.wave_row + self.lanes.low, self.lanes.first

    def place(self, blocks: int, block: Expr, row: int, near: int) -> Expr:
        return (block + row * blocks) * self.lanes.unit.sums + near

    def take_queries(self) -> None:
        if not self.unit.shared:
            for d in range(self.deep):
                self._queries(self.lanes, d, d, self.deep)

    def _queries(self, lanes: Lanes, d: int, at: int, count: int) -> None:
        """Loads the rows at 16 points of the depth as number `at` of `count` fragments of each 16 rows."""
        tile = self.query.fragments(const(0))
        for h in range(self.tiles):
            outer = self.wave_row + h * SIDE
            lanes.load(tile, outer, const(d * SIDE), self.queries, h * count + at, columns=False)

    def add_scores(self, stage: Expr) -> None:
        tile, dtype, lanes = self.key.fragments(stage), self.query.dtype, Lanes(self.body, self.unit, afresh=True)
        for d in range(self.deep):
            self.body.in_order()
            # Where lanes share elements, registers do not hold all of them.
            at, count = (0, 1) if self.unit.shared else (d, self.deep)
            if self.unit.shared:
                self._queries(lanes, d, at, count)
            for j in range(self.long):
                lanes.load(tile, const(j * SIDE), const(d * SIDE), self.keys, j, columns=True, turned=True)
            for h in range(self.tiles):
                for j in range(self.long):
                    number, query = h * self.long + j, h * count + at
                    lanes.multiply(dtype, self.scores, number, self.keys, j, self.queries, query)

    def take_weights(self, block: Expr, row: int, powers: Sequence[Prim]) -> None:
        body, unit = self.body, self.unit
        first = (block + row * self.long) * unit.held
        rounded = [types.to_storage(x, self.value.dtype) for x in powers]
        if not unit.shared:
            for e, weight in enumerate(rounded):
                body.store(self.weights, body.index(body.simplify(first + e)), weight)
            return
        for e, weight in enumerate(rounded):
            body.store(self.passed, i32(e), weight)
        words = unit.sums // 2
        near, all_ = (body.view(x, "uint32", int(x.shape[0]) // 2) for x in (self.passed, self.weights))
        lower = body.bind(body.index(body.simplify(self.lanes.first < unit.sums)), "lower")
        for e in range(words):
            mine = body.bind(near[i32(e)], "mine")
            other = body.bind(body.across(mine, SIDE), "other")
            for half, (here, there) in enumerate(((mine, other), (other, mine))):
                place = body.index(body.simplify(first // 2 + (half * words + e)))
                body.store(all_, place, tirx.Select(lower, here, there))

    def add_sums(self, stage: Expr) -> None:
        tile, dtype, lanes = self.value.fragments(stage), self.value.dtype, Lanes(self.body, self.unit, afresh=True)
        for j in range(self.long):
            for first in range(0, self.wide, self.group):
                if self.unit.shared or not first:
                    self.body.in_order()
                    lanes = Lanes(self.body, self.unit, afresh=True)
                lanes.load(
                    tile, const(first * SIDE), const(j * SIDE), self.values, 0, columns=True, group=self.group
                )
                for h in range(self.tiles):
                    for t in range(self.group):
                        number, weight = h * self.wide + first + t, h * self.long + j
                        lanes.multiply(dtype, self.sums, number, self.values, t, self.weights, weight)

    def store(self) -> None:
        found = self.found
        column = self.body.hold(self.lanes.first * self.group, "column")
        held = Held(self.sums, self.unit, self.row, column, self.tiles, self.wide, 1, self.group)
        store_held(self.body, found.output, found.result, self.batch, held)
