"""Attention in one pass over the keys without tensor cores: a warp takes some rows, its lanes keys, then columns.

Tiles of keys and values stand in shared memory. A lane computes the scores of its keys for all rows of its warp; the
weights pass through shared memory to the lanes, which then have columns of the result each. Rescaling is as in
`emit.gpu.attention`, and reassociating as there.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, const, minimum
from tilewright.ir.ops import Axis
from tilewright.ir.program import Kernel
from tilewright.views.staged import StagedSpec
from tilewright_backends.emit.gpu.body import GpuBody, i32
from tilewright_backends.emit.gpu.online import cleared, inverse, power, raise_to, rescale
from tilewright_backends.emit.gpu.points import count, decompose, point_at
from tilewright_backends.emit.gpu.tiles import Team, TileLoader, plan_tile
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.contraction import Operand
from tilewright_backends.recipes.gpu.attention_simt import LANES
from tilewright_backends.recipes.gpu.flat_attention import Attention, flat_attention


def emit(body: GpuBody, kernel: Kernel, staged: StagedSpec) -> None:
    """The code of one task of a kernel: a block of rows against all keys."""
    found = flat_attention(staged)
    if found is None:
        raise InternalError(f"attention_simt does not take kernel {kernel.name}.")
    choice = kernel.choice
    _Emitter(body, found, choice["rows.warp"], choice["warps"], choice["keys.step"]).run()


class _Emitter:
    def __init__(self, body: GpuBody, found: Attention, mine: int, warps: int, step: int) -> None:
        self.body, self.found, self.mine, self.step = body, found, mine, step
        body.together = 1
        self.sharing = [1 << i for i in reversed(range(body.warp.bit_length() - 1))]
        spec, block = found.spec, mine * warps
        row_tiles = -(-found.row_count // block)
        self.tile = body.hold(body.task % row_tiles, "tile")
        number = body.hold(body.task // row_tiles, "b")
        self.batch = decompose(number, spec.batch, body) if spec.batch else {}
        self.trips = -(-found.key_count // step)
        self.lane = body.hold(body.thread % self.body.warp, "lane")
        self.first = body.hold(body.thread // self.body.warp * mine, "first")
        self.row = body.hold(self.tile * block + self.first, "row")
        self.depth, self.across = found.depth(LANES), found.columns(self.body.warp)
        self.pitch = self.depth + LANES
        self.queries = body.shared("float32", block * self.depth, "queries")
        self.keys = body.shared("float32", step * self.pitch, "keys")
        self.values = body.shared("float32", step * self.across, "values")
        self.passed = body.shared("float32", block * step, "weights")
        self.each = step // self.body.warp
        self.scores = body.registers("float32", mine * self.each, "score")
        self.sums = body.registers("float32", mine * self.across // self.body.warp, "sum")
        self.highest = body.registers("float32", mine, "highest")
        self.totals = body.registers("float32", mine, "total")
        self.at_rows = [self._row(r) for r in range(mine)]
        whole = row_tiles * block
        self.loaders = (
            self._loader(found.query, found.rows, self.depth, block, whole),
            self._loader(found.key, found.keys, self.depth, step, self.trips * step),
            self._loader(found.value, found.keys, self.across, step, self.trips * step),
        )

    def _loader(self, factor: Operand, k: tuple[Axis, ...], extent: int, step: int, padded: int) -> TileLoader:
        """Tiles of a factor, one point of `k` after the other, each with all of its outer points."""
        found, body = self.found, self.body
        flat = found.output if factor is found.value else found.scores
        plan = plan_tile(flat, factor, k, extent, step, padded, body.threads, None)
        team = Team(body.threads, body.thread)
        return TileLoader(body, flat, team, plan, k, const(0), self.batch, const(0), "float32")

    def _row(self, number: int) -> dict[str, Expr]:
        """A row of the warp, kept within the rows."""
        rows, last = self.found.spec.rows, const(self.found.row_count - 1)
        return decompose(self.body.hold(minimum(self.row + number, last), "at"), rows, self.body) if rows else {}

    def run(self) -> None:
        """All keys, block after block, then the result."""
        body = self.body
        for registers, size, value in (
            (self.sums, self.mine * self.across // self.body.warp, 0.0),
            (self.totals, self.mine, 0.0),
            (self.highest, self.mine, -math.inf),
        ):
            with body.repeat(size, "clear") as i:
                body.store(registers, i, types.literal(value, "float32"))
        query, key, value_ = self.loaders
        query.fetch(self.tile)
        key.fetch(const(0))
        value_.fetch(const(0))
        query.put(self.queries, self.depth, const(0))
        self._put()
        with body.loop("trip", self.trips) as trip:
            body.sync()
            more = body.index(body.simplify(trip + 1 < self.trips))
            with body.when(more):
                key.fetch(trip + 1)
                value_.fetch(trip + 1)
            self._score()
            self._weigh(trip)
            body.warp_sync()
            self._add()
            body.sync()
            with body.when(more):
                self._put()
        self._finish()

    def _put(self) -> None:
        _, key, value = self.loaders
        key.put(self.keys, self.pitch, const(0))
        value.put(self.values, self.across, const(0))

    def _score(self) -> None:
        """Products of the warp's rows with the lane's keys."""
        body, index = self.body, self.body.index
        with body.repeat(self.mine * self.each, "clear") as i:
            body.store(self.scores, i, types.literal(0.0, "float32"))
        keys, queries = body.vectors(self.keys, LANES), body.vectors(self.queries, LANES)
        mine = body.registers("float32", LANES * self.each, "key")
        row = body.registers("float32", LANES, "query")
        to_mine, to_row = body.vectors(mine, LANES), body.vectors(row, LANES)
        with body.loop("d", self.depth // LANES) as d:
            for n in range(self.each):
                place = (self.lane + n * self.body.warp) * (self.pitch // LANES) + d
                body.store(to_mine, i32(n), keys[index(body.simplify(place))])
            with body.loop("r", self.mine, "unrolled") as r:
                place = (self.first + r) * (self.depth // LANES) + d
                body.store(to_row, i32(0), queries[index(body.simplify(place))])
                for n in range(self.each):
                    at = index(body.simplify(r * self.each + n))
                    for lane in range(LANES):
                        added = row[i32(lane)] * mine[i32(n * LANES + lane)]
                        body.store(self.scores, at, self.scores[at] + added)

    def _weigh(self, trip: Expr) -> None:
        """Scores -> weights in shared memory, relative to the largest score so far."""
        body, found = self.body, self.found
        dtype = found.spec.weights.dtype
        (store,) = found.scores.stores
        for r in range(self.mine):
            best = body.registers("float32", 1, "best")
            body.store(best, i32(0), self.highest[i32(r)])
            for n in range(self.each):
                key = body.hold(trip * self.step + self.lane + n * self.body.warp, "key")
                inside = body.simplify(key < found.key_count)
                last = body.hold(minimum(key, const(found.key_count - 1)), "at")
                here = {**self.batch, **self.at_rows[r], found.spec.keys.name: last}
                place = i32(r * self.each + n)
                value = point_at(body, found.scores, here, [self.scores[place]]).value(store.expr)
                value = tirx.Select(body.index(inside), value, types.literal(-math.inf, "float32"))
                value = body.bind(value, "score")
                body.store(self.scores, place, value)
                raise_to(body, best, value)
            factor = rescale(body, best, self.highest, r, self.sharing)
            body.store(self.totals, i32(r), self.totals[i32(r)] * factor)
            self._scale(r, factor)
            for n in range(self.each):
                weight = power(body, self.scores[i32(r * self.each + n)], best)
                body.store(self.totals, i32(r), self.totals[i32(r)] + weight)
                place = body.index(body.simplify((self.first + r) * self.step + self.lane + n * self.body.warp))
                body.store(self.passed, place, types.rounded(weight, dtype))

    def _scale(self, r: int, factor: Prim) -> None:
        """Multiplies a row's sums."""
        each = self.across // self.body.warp
        for c in range(each):
            at = i32(r * each + c)
            self.body.store(self.sums, at, self.sums[at] * factor)

    def _add(self) -> None:
        """Adds the products of the weights with a block of values."""
        body, index, each = self.body, self.body.index, self.across // self.body.warp
        weights = body.vectors(self.passed, LANES)
        row = body.registers("float32", LANES, "weight")
        to_row = body.vectors(row, LANES)
        column = body.registers("float32", LANES * each, "value")
        with body.loop("k", self.step // LANES) as k:
            for lane in range(LANES):
                for c in range(each):
                    place = (k * LANES + lane) * self.across + self.lane + c * self.body.warp
                    body.store(column, i32(lane * each + c), self.values[index(body.simplify(place))])
            with body.loop("r", self.mine, "unrolled") as r:
                place = (self.first + r) * (self.step // LANES) + k
                body.store(to_row, i32(0), weights[index(body.simplify(place))])
                for c in range(each):
                    at = index(body.simplify(r * each + c))
                    for lane in range(LANES):
                        added = row[i32(lane)] * column[i32(lane * each + c)]
                        body.store(self.sums, at, self.sums[at] + added)

    def _finish(self) -> None:
        """Divides by the totals and runs the epilogue."""
        body, found, each = self.body, self.found, self.across // self.body.warp
        spec = found.spec
        for r in range(self.mine):
            self._scale(r, inverse(body, self.totals[i32(r)], self.sharing))
            places = [i32(r * each + c) for c in range(each)]
            cleared(body, found, {**self.batch, **self.at_rows[r]}, self.sums, places)
        for r in range(self.mine):
            row = body.below(body.hold(self.row + r, "row"), found.row_count)
            with nullcontext() if row is None else body.when(row):
                for c in range(each):
                    number = body.hold(self.lane + c * self.body.warp, "column")
                    inside = body.below(number, count(spec.columns))
                    with nullcontext() if inside is None else body.when(inside):
                        at = {**self.batch, **self.at_rows[r], **decompose(number, spec.columns, body)}
                        point = point_at(body, found.output, at, [self.sums[i32(r * each + c)]])
                        for store in found.output.stores:
                            point.store(store)
