"""Attention in one pass over the keys, by `mma.sync`: what lies between the two products never leaves the registers.

A warp has 16 rows. For each block of keys it computes their scores, takes their powers relative to the largest score so
far, and adds the powers' products with the values up; sums from earlier blocks are rescaled where a larger score comes
(Dao et al., FlashAttention, 2022; Dao, FlashAttention-2, 2023, section 3: warps share the rows, not the keys).

Exactness: reassociating. Sums run over blocks of keys, and a weight is rounded to its dtype before it is divided by the
sum of all, not after: the same relative error, and less where weights are subnormal.
"""

from __future__ import annotations

import math

from tvm import tirx
from tvm.tirx import op as tir_op

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, const, minimum
from tilewright.ir.program import Kernel
from tilewright.views.staged import StagedSpec
from tilewright_backends.emit.cuda import ptx
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.epilogue import Piece, store_pieces
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.emit.gpu.half_tiles import HalfTile, HalfTilePlan
from tilewright_backends.emit.gpu.online import cleared, inverse, power, raise_to, rescale
from tilewright_backends.emit.gpu.points import decompose, point_at
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.flat_attention import Attention, Halves, flat_attention, halves_of
from tilewright_backends.recipes.gpu.tensor import CHUNK, HalfOperand

_SHARING = (1, 2)
"""Distances between the four lanes that share a row of the accumulators."""


def emit(body: Body, kernel: Kernel, staged: StagedSpec) -> None:
    """The code of one task of a kernel: a block of rows against all keys."""
    found = flat_attention(staged)
    halves = halves_of(found) if found is not None else None
    if found is None or halves is None:
        raise InternalError(f"cuda.attention does not take kernel {kernel.name}.")
    choice = kernel.choice
    _Emitter(body, found, halves, choice["rows.block"], choice["keys.step"], choice["stages"]).run()


class _Emitter:
    def __init__(self, body: Body, found: Attention, halves: Halves, block: int, step: int, stages: int) -> None:
        self.body, self.found, self.step, self.stages = body, found, step, stages
        body.together = 1
        spec = found.spec
        row_tiles = -(-found.row_count // block)
        tile = body.hold(body.task % row_tiles, "tile")
        number = body.hold(body.task // row_tiles, "b")
        self.batch = decompose(number, spec.batch, body) if spec.batch else {}
        self.trips = -(-found.key_count // step)
        self.lane = body.hold(body.thread % body.warp, "lane")
        self.warp_row = body.hold(body.thread // body.warp * 16, "first")
        self.row = body.hold(tile * block + self.warp_row + self.lane // 4, "row")
        self.depth, self.columns = found.depth(16), found.columns(16)
        padded = self.trips * step

        def half(operand: HalfOperand, extent: int, along: int, whole: int, count: int) -> HalfTile:
            over = spec.depth if operand is halves.query else found.keys
            flat = found.output if operand is halves.value else found.scores
            plan = HalfTilePlan(operand, extent, along, whole, None)
            base = tile * block if operand is halves.query else const(0)
            return HalfTile(body, flat, plan, over, base, const(0), self.batch, count)

        self.query = half(halves.query, block, self.depth, self.depth, 1)
        self.key = half(halves.key, self.depth, step, padded, stages)
        self.value = half(halves.value, self.columns, step, padded, stages)
        self.scores = body.registers("float32", step // 2, "score")
        self.sums = body.registers("float32", self.columns // 2, "sum")
        self.queries = body.registers("uint32", self.depth // 4, "query")
        self.fragment = body.registers("uint32", 4, "fragment")
        self.weights = body.registers("uint32", step // 4, "weight")
        self.highest = body.registers("float32", 2, "highest")
        self.totals = body.registers("float32", 2, "total")
        self.at_rows = [self._row(h) for h in range(2)]

    def _row(self, h: int) -> dict[str, Expr]:
        """The thread's row `h`, of the two that it has, kept within the rows."""
        rows = self.found.spec.rows
        return decompose(self._kept(self.row + 8 * h, self.found.row_count), rows, self.body) if rows else {}

    def _kept(self, number: Expr, total: int) -> Expr:
        return self.body.hold(minimum(number, const(total - 1)), "at")

    def run(self) -> None:
        """All keys, block after block, then the result."""
        body = self.body
        self._clear(self.sums, self.columns // 2, 0.0)
        self._clear(self.totals, 2, 0.0)
        self._clear(self.highest, 2, -math.inf)
        self.query.start(const(0), const(0))
        self.query.finish(const(0))
        body.call("tw_cp_async_commit", source=ptx.CP_ASYNC_COMMIT)
        for first in range(self.stages - 1):
            if first < self.trips:
                for half in (self.key, self.value):
                    half.start(const(first), const(first))
                    half.finish(const(first))
            body.call("tw_cp_async_commit", source=ptx.CP_ASYNC_COMMIT)
        self._wait(self.stages - 1)
        with body.loop("kk", self.depth // 16, "unrolled") as kk:
            self._load(self.query, const(0), self.warp_row, kk * 16, rows_fast=True, into=self.queries, number=kk)
        with body.loop("trip", self.trips) as trip:
            self._wait(self.stages - 2)
            ahead = trip + (self.stages - 1)
            more = body.index(body.simplify(ahead < self.trips))
            into = body.hold(ahead % self.stages, "into")
            with body.when(more):
                for half in (self.key, self.value):
                    half.start(ahead, into)
            body.call("tw_cp_async_commit", source=ptx.CP_ASYNC_COMMIT)
            stage = body.hold(trip % self.stages, "stage")
            self._score(stage)
            self._weigh(trip)
            self._add(stage)
            with body.when(more):
                for half in (self.key, self.value):
                    half.finish(into)
        self._finish()

    def _clear(self, registers: Prim, count: int, value: float) -> None:
        with self.body.repeat(count, "clear") as i:
            self.body.store(registers, i, types.literal(value, "float32"))

    def _wait(self, groups: int) -> None:
        name, source = ptx.cp_async_wait(groups)
        self.body.call(name, source=source)
        self.body.sync()

    def _load(
        self, half: HalfTile, start: Expr, outer: Expr, k: Expr, *, rows_fast: bool, into: Prim, number: Expr
    ) -> None:
        """Loads four 8×8 quadrants of a 16×16 piece of a tile, in which the product sums along `k`.

        Args:
            outer, k: first row or column of the product, first point that it sums over.
            rows_fast: whether the second quadrant is the next along `outer`, otherwise the next along `k`.
        """
        body = self.body
        row_in, quadrant = self.lane % 8, self.lane // 8
        fast, slow = quadrant % 2, quadrant // 2
        of_outer, of_k = (fast, slow) if rows_fast else (slow, fast)
        # The keys' tiles follow each other along the keys, which are columns of the scores.
        turned = half is self.key
        along_k = half.plan.along_k != turned
        if along_k:
            row, first = outer + of_outer * 8 + row_in, k + of_k * 8
        else:
            row, first = k + of_k * 8 + row_in, outer + of_outer * 8
        chunk = body.index(body.simplify(first // CHUNK))
        place = body.index(start) + half.plan.element(body.index(body.simplify(row)), chunk)
        name = "tw_ldmatrix_x4" if along_k else "tw_ldmatrix_x4_trans"
        source = ptx.LDMATRIX if along_k else ptx.LDMATRIX_TRANS
        target = into[body.index(body.simplify(number * 4))]
        body.call(name, tir_op.address_of(target), tir_op.address_of(half.buffer[place]), source=source)

    def _multiply(self, dtype: str, sums: Prim, place: Expr, rows: Prim, first: Expr, columns: int) -> None:
        """Adds a 16×8 product to sums, of the fragment's first or second half of columns."""
        index = self.body.index
        operands = (
            sums[index(self.body.simplify(place))],
            rows[index(self.body.simplify(first))],
            self.fragment[i32(columns * 2)],
        )
        self.body.call(f"tw_mma_{dtype}", *(tir_op.address_of(x) for x in operands), source=ptx.MMA[dtype])

    def _products(
        self, operand: HalfTile, stage: Expr, depth: int, width: int, dtype: str, sums: Prim, left: Prim
    ) -> None:
        """Adds to `sums` the products of fragments in registers with a block of an operand in shared memory."""
        body = self.body
        start = body.hold(stage * operand.plan.elements, "start")
        with (
            body.loop("kk", depth // 16, "unrolled") as kk,
            body.loop("j", width // 16, "unrolled") as j,
        ):
            self._load(operand, start, j * 16, kk * 16, rows_fast=False, into=self.fragment, number=const(0))
            for half in range(2):
                self._multiply(dtype, sums, j * 8 + half * 4, left, kk * 4, half)

    def _score(self, stage: Expr) -> None:
        """Products of the rows with a block of keys."""
        self._clear(self.scores, self.step // 2, 0.0)
        self._products(self.key, stage, self.depth, self.step, self.query.dtype, self.scores, self.queries)

    def _weigh(self, trip: Expr) -> None:
        """Scores -> weights relative to the largest score so far; sums are rescaled to it."""
        body, step = self.body, self.step
        best = [self._new_best(h) for h in range(2)]
        first = body.hold(trip * step + self.lane % 4 * 2, "key")
        with body.loop("j", step // 8, "unrolled") as j:
            for c in range(2):
                self._epilogue(body.hold(first + j * 8 + c, "key"), j * 4 + c, best)
        for h in range(2):
            factor = rescale(body, best[h], self.highest, h, _SHARING)
            self._scale(h, factor)
            body.store(self.totals, i32(h), self.totals[i32(h)] * factor)
        with body.loop("j", step // 8, "unrolled") as j:
            for h in range(2):
                pair = [self._power(j * 4 + h * 2 + c, h, best[h]) for c in range(2)]
                name = self.value.dtype
                word = body.call(f"tw_pair_{name}", *pair, source=ptx.PAIR[name], result="uint32")
                body.store(self.weights, body.index(body.simplify(j * 2 + h)), word)

    def _new_best(self, h: int) -> Prim:
        best = self.body.registers("float32", 1, "best")
        self.body.store(best, i32(0), self.highest[i32(h)])
        return best

    def _epilogue(self, key: Expr, place: Expr, best: list[Prim]) -> None:
        """What the softmax is taken of, at a key in both rows; beyond the keys it is -inf, which weighs nothing."""
        body, found = self.body, self.found
        (store,) = found.scores.stores
        partial = found.key_count % self.step != 0
        at = self._kept(key, found.key_count) if partial else key
        for h in range(2):
            index = body.index(body.simplify(place + 2 * h))
            here = {**self.batch, **self.at_rows[h], found.spec.keys.name: at}
            value = point_at(body, found.scores, here, [self.scores[index]]).value(store.expr)
            if partial:
                inside = body.index(body.simplify(key < found.key_count))
                value = tirx.Select(inside, value, types.literal(-math.inf, "float32"))
            value = body.bind(value, "score")
            body.store(self.scores, index, value)
            raise_to(body, best[h], value)

    def _scale(self, h: int, factor: Prim) -> None:
        """Multiplies a row's sums."""
        body = self.body
        with body.loop("j", self.columns // 8, "unrolled") as j:
            for c in range(2):
                index = body.index(body.simplify(j * 4 + (h * 2 + c)))
                body.store(self.sums, index, self.sums[index] * factor)

    def _power(self, place: Expr, h: int, best: Prim) -> Prim:
        """The weight of a score, before it is rounded; the row's total counts it."""
        body = self.body
        found = power(body, self.scores[body.index(body.simplify(place))], best)
        body.store(self.totals, i32(h), self.totals[i32(h)] + found)
        return found

    def _add(self, stage: Expr) -> None:
        """Adds the products of the weights with a block of values."""
        self._products(self.value, stage, self.step, self.columns, self.value.dtype, self.sums, self.weights)

    def _finish(self) -> None:
        """Divides by the totals and runs the epilogue."""
        body = self.body
        for h in range(2):
            self._scale(h, inverse(body, self.totals[i32(h)], _SHARING))
            places = [i32(j * 4 + h * 2 + c) for j in range(self.columns // 8) for c in range(2)]
            cleared(body, self.found, {**self.batch, **self.at_rows[h]}, self.sums, places)
        found = self.found
        column = body.hold(self.lane % 4 * 2, "column")
        piece = Piece(self.sums, 1, self.columns // 8, self.row, column)
        store_pieces(body, found.output, found.result, self.batch, piece)
