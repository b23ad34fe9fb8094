"""Attention in one pass over the keys: what lies between the two products never leaves the registers.

A warp has some rows. For each block of keys it computes their scores, takes their powers relative to the largest score
so far, and adds the powers' products with the values up; sums from earlier blocks are rescaled where a larger score
comes (Dao et al., FlashAttention, 2022; Dao, FlashAttention-2, 2023, section 3: warps share the rows, not the keys).

Exactness: reassociating. Sums run over blocks of keys, and a weight is rounded to its dtype before it is divided by the
sum of all, not after: the same relative error, and less where weights are subnormal.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import attrs
from tvm import tirx

from tilewright.ir.expr import Expr, const, minimum
from tilewright_backends.emit.gpu.body import GpuBody, i32
from tilewright_backends.emit.gpu.half_tiles import HalfTile, HalfTilePlan
from tilewright_backends.emit.gpu.online import cleared, inverse, power, raise_to, rescale
from tilewright_backends.emit.gpu.points import decompose, point_at
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.flat_attention import Attention, Halves
from tilewright_backends.recipes.gpu.tensor import HalfOperand


@attrs.frozen
class Share:
    """What a lane has of a warp's rows and of each block of keys or columns.

    Args:
        rows: their distances from the lane's first one.
        near: neighbouring keys (columns) of a block.
        block: keys (columns) of a block.
        distances: between the lanes that share rows, powers of two.
    """

    rows: Sequence[int]
    near: int
    block: int
    distances: Sequence[int]


class OnlineAttention(ABC):
    """Statements of one task: a block of rows against all keys.

    Args:
        block, step: rows of a block, keys of a step.
        stages: of the ring of keys and values.
    """

    def __init__(
        self, body: GpuBody, found: Attention, halves: Halves, block: int, step: int, stages: int, share: Share
    ) -> None:
        self.body, self.found, self.step, self.stages, self.share = body, found, step, stages, share
        body.together = 1
        spec = found.spec
        row_tiles = -(-found.row_count // block)
        tile = body.hold(body.task % row_tiles, "tile")
        number = body.hold(body.task // row_tiles, "b")
        self.batch = decompose(number, spec.batch, body) if spec.batch else {}
        self.trips = -(-found.key_count // step)
        self.lane = body.hold(body.thread % body.warp, "lane")
        self.base = tile * block
        self.depth, self.columns = found.depth(16), found.columns(16)
        padded = self.trips * step

        def half(operand: HalfOperand, extent: int, along: int, whole: int, count: int) -> HalfTile:
            over = spec.depth if operand is halves.query else found.keys
            flat = found.output if operand is halves.value else found.scores
            plan = HalfTilePlan(operand, extent, along, whole, None)
            base = self.base if operand is halves.query else const(0)
            return HalfTile(body, flat, plan, over, base, const(0), self.batch, count)

        self.query = half(halves.query, block, self.depth, self.depth, 1)
        self.key = half(halves.key, self.depth, step, padded, stages)
        self.value = half(halves.value, self.columns, step, padded, stages)
        each = len(share.rows) * share.near
        self.score_count, self.sum_count = step // share.block * each, self.columns // share.block * each
        self.scores = body.registers("float32", self.score_count, "score")
        self.sums = body.registers("float32", self.sum_count, "sum")
        self.highest = body.registers("float32", len(share.rows), "highest")
        self.totals = body.registers("float32", len(share.rows), "total")
        self.first_row, self.first_near = self.mine()
        self.row = body.hold(self.base + self.first_row, "row")
        self.at_rows = [self._at_row(x) for x in share.rows]

    @abstractmethod
    def mine(self) -> tuple[Expr, Expr]:
        """The lane's first row in the block, and its first key (column) of a block of keys (columns)."""

    @abstractmethod
    def place(self, blocks: int, block: Expr, row: int, near: int) -> Expr:
        """The number of a score or sum: of which of the lane's rows, at which neighbour in which of the blocks."""

    @abstractmethod
    def take_queries(self) -> None:
        """Loads the warp's rows into registers."""

    @abstractmethod
    def add_scores(self, stage: Expr) -> None:
        """Adds the products of the rows with a block of keys to the scores."""

    @abstractmethod
    def take_weights(self, block: Expr, row: int, powers: Sequence[Prim]) -> None:
        """Rounds the weights of a row at the lane's keys of a block, as operands of the second product."""

    @abstractmethod
    def add_sums(self, stage: Expr) -> None:
        """Adds the products of the weights with a block of values to the sums."""

    @abstractmethod
    def store(self) -> None:
        """Runs the epilogue."""

    def run(self) -> None:
        """All keys, block after block, then the result."""
        body = self.body
        self._clear(self.sums, self.sum_count, 0.0)
        self._clear(self.totals, len(self.share.rows), 0.0)
        self._clear(self.highest, len(self.share.rows), -math.inf)
        self.query.start(const(0), const(0))
        self.query.finish(const(0))
        body.copies_end()
        for first in range(self.stages - 1):
            if first < self.trips:
                for half in (self.key, self.value):
                    half.start(const(first), const(first))
                    half.finish(const(first))
            body.copies_end()
        body.wait_for_copies(self.stages - 1)
        self.take_queries()
        with body.loop("trip", self.trips) as trip:
            body.wait_for_copies(self.stages - 2)
            ahead = trip + (self.stages - 1)
            more = body.index(body.simplify(ahead < self.trips))
            into = body.hold(ahead % self.stages, "into")
            with body.when(more):
                for half in (self.key, self.value):
                    half.start(ahead, into)
            body.copies_end()
            stage = body.hold(trip % self.stages, "stage")
            self._clear(self.scores, self.score_count, 0.0)
            self.add_scores(stage)
            self._weigh(trip)
            self.add_sums(stage)
            with body.when(more):
                for half in (self.key, self.value):
                    half.finish(into)
        for h in range(len(self.share.rows)):
            self._scale(h, inverse(body, self.totals[i32(h)], self.share.distances))
            blocks = range(self.columns // self.share.block)
            places = [self._place(len(blocks), const(j), h, c) for j in blocks for c in range(self.share.near)]
            cleared(body, self.found, {**self.batch, **self.at_rows[h]}, self.sums, places)
        self.store()

    def _at_row(self, distance: int) -> dict[str, Expr]:
        """One of the lane's rows, kept within the rows."""
        rows = self.found.spec.rows
        return decompose(self._kept(self.row + distance, self.found.row_count), rows, self.body) if rows else {}

    def _kept(self, number: Expr, total: int) -> Expr:
        return self.body.hold(minimum(number, const(total - 1)), "at")

    def _clear(self, registers: Prim, count: int, value: float) -> None:
        with self.body.repeat(count, "clear") as i:
            self.body.store(registers, i, types.literal(value, "float32"))

    def _place(self, blocks: int, block: Expr, row: int, near: int) -> Prim:
        return self.body.index(self.body.simplify(self.place(blocks, block, row, near)))

    def _weigh(self, trip: Expr) -> None:
        """Scores -> weights relative to the largest score so far; sums are rescaled to it."""
        body, step, share = self.body, self.step, self.share
        rows, blocks = range(len(share.rows)), step // share.block
        best = [self._new_best(h) for h in rows]
        first = body.hold(trip * step + self.first_near, "key")
        with body.loop("j", blocks, "unrolled") as j:
            body.in_order()
            for c in range(share.near):
                key = body.hold(first + j * share.block + c, "key")
                self._epilogue(key, [self._place(blocks, j, h, c) for h in rows], best)
        for h in rows:
            factor = rescale(body, best[h], self.highest, h, share.distances)
            self._scale(h, factor)
            body.store(self.totals, i32(h), self.totals[i32(h)] * factor)
        with body.loop("j", blocks, "unrolled") as j:
            body.in_order()
            for h in rows:
                powers = [self._power(self._place(blocks, j, h, c), h, best[h]) for c in range(share.near)]
                self.take_weights(j, h, powers)
                # Left to later, the addition would keep the powers of all blocks in registers.
                body.settle(self.totals, h, 1)

    def _new_best(self, h: int) -> Prim:
        best = self.body.registers("float32", 1, "best")
        self.body.store(best, i32(0), self.highest[i32(h)])
        return best

    def _epilogue(self, key: Expr, places: Sequence[Prim], best: Sequence[Prim]) -> None:
        """What the softmax is taken of, at a key in all rows; beyond the keys it is -inf, which weighs nothing."""
        body, found = self.body, self.found
        (store,) = found.scores.stores
        partial = found.key_count % self.step != 0
        at = self._kept(key, found.key_count) if partial else key
        for h, place in enumerate(places):
            here = {**self.batch, **self.at_rows[h], found.spec.keys.name: at}
            value = point_at(body, found.scores, here, [self.scores[place]]).value(store.expr)
            if partial:
                inside = body.index(body.simplify(key < found.key_count))
                value = tirx.Select(inside, value, types.literal(-math.inf, "float32"))
            value = body.bind(value, "score")
            body.store(self.scores, place, value)
            raise_to(body, best[h], value)

    def _scale(self, h: int, factor: Prim) -> None:
        """Multiplies a row's sums."""
        body, blocks = self.body, self.columns // self.share.block
        with body.loop("j", blocks, "unrolled") as j:
            for c in range(self.share.near):
                place = self._place(blocks, j, h, c)
                body.store(self.sums, place, self.sums[place] * factor)

    def _power(self, place: Prim, h: int, best: Prim) -> Prim:
        """The weight of a score, before it is rounded; the row's total counts it."""
        body = self.body
        found = power(body, self.scores[place], best)
        body.store(self.totals, i32(h), self.totals[i32(h)] + found)
        return found
