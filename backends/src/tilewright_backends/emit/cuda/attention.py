"""Attention in one pass over the keys, by `mma.sync`: a warp has 16 rows, a lane two of them, eight apart."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.tirx import op as tir_op

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, const
from tilewright.ir.program import Kernel
from tilewright.views.staged import StagedSpec
from tilewright_backends.emit.cuda import ptx
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.epilogue import Piece, store_pieces
from tilewright_backends.emit.gpu.attention import OnlineAttention, Share
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.emit.gpu.half_tiles import HalfTile
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.flat_attention import Attention, Halves, flat_attention, halves_of
from tilewright_backends.recipes.gpu.tensor import CHUNK


def emit(body: Body, kernel: Kernel, staged: StagedSpec) -> None:
    """The code of one task of a kernel: a block of rows against all keys."""
    found = flat_attention(staged)
    halves = halves_of(found) if found is not None else None
    if found is None or halves is None:
        raise InternalError(f"cuda.attention does not take kernel {kernel.name}.")
    choice = kernel.choice
    _Emitter(body, found, halves, choice["rows.block"], choice["keys.step"], choice["stages"]).run()


class _Emitter(OnlineAttention):
    body: Body

    def __init__(self, body: Body, found: Attention, halves: Halves, block: int, step: int, stages: int) -> None:
        super().__init__(body, found, halves, block, step, stages, Share((0, 8), 2, 8, (1, 2)))
        self.queries = body.registers("uint32", self.depth // 4, "query")
        self.fragment = body.registers("uint32", 4, "fragment")
        self.weights = body.registers("uint32", step // 4, "weight")

    def mine(self) -> tuple[Expr, Expr]:
        self.warp_row = self.body.hold(self.body.thread // self.body.warp * 16, "first")
        return self.warp_row + self.lane // 4, self.lane % 4 * 2

    def place(self, blocks: int, block: Expr, row: int, near: int) -> Expr:
        return block * 4 + (row * 2 + near)

    def take_queries(self) -> None:
        with self.body.loop("kk", self.depth // 16, "unrolled") as kk:
            self._load(self.query, const(0), self.warp_row, kk * 16, rows_fast=True, into=self.queries, number=kk)

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

    def add_scores(self, stage: Expr) -> None:
        self._products(self.key, stage, self.depth, self.step, self.query.dtype, self.scores, self.queries)

    def take_weights(self, block: Expr, row: int, powers: Sequence[Prim]) -> None:
        body, name = self.body, self.value.dtype
        word = body.call(f"tw_pair_{name}", *powers, source=ptx.PAIR[name], result="uint32")
        body.store(self.weights, body.index(body.simplify(block * 2 + row)), word)

    def add_sums(self, stage: Expr) -> None:
        self._products(self.value, stage, self.step, self.columns, self.value.dtype, self.sums, self.weights)

    def store(self) -> None:
        found = self.found
        column = self.body.hold(self.first_near, "column")
        piece = Piece(self.sums, 1, self.columns // 8, self.row, column)
        store_pieces(self.body, found.output, found.result, self.batch, piece)
