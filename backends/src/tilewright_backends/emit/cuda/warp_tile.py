"""The part of a block's result that one warp computes by `mma.sync` from swizzled tiles in shared memory."""

from __future__ import annotations

from collections.abc import Mapping

from tvm.tirx import op as tir_op

from tilewright.ir.expr import Expr
from tilewright_backends.emit.cuda import ptx
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.epilogue import Piece, store_pieces
from tilewright_backends.emit.gpu.half_tiles import Fragments
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.contraction import Contraction
from tilewright_backends.recipes.gpu.tensor import CHUNK

WARP = 32


class WarpTile:
    """The sums of a warp: `rows` × `columns` of the result, of a block with `across` warps side by side.

    Args:
        afresh: whether places are computed for this tile, not kept in registers from earlier ones.
    """

    def __init__(
        self, body: Body, rows: int, columns: int, across: int, dtype: str, afresh: bool = False
    ) -> None:
        self.body, self.dtype = body, dtype
        find = body.afresh if afresh else body.hold
        warp = find(body.thread // WARP, "warp")
        self.lane = find(body.thread % WARP, "lane")
        self.m_first = body.hold(warp // across * rows, "m_first")
        self.n_first = body.hold(warp % across * columns, "n_first")
        self.m_count, self.n_count = rows // 16, columns // 8
        self.sums = body.registers("float32", self.m_count * self.n_count * 4, "sum")
        self._a = body.registers("uint32", self.m_count * 4, "a")
        self._b = body.registers("uint32", self.n_count * 2, "b")

    def clear(self) -> None:
        """Starts the sums at zero."""
        with self.body.repeat(self.m_count * self.n_count * 4, "clear") as i:
            self.body.store(self.sums, i, types.literal(0, "float32"))

    def multiply(self, rows: Fragments, columns: Fragments) -> None:
        """Adds the products of two tiles."""
        body = self.body
        with body.loop("kk", rows.plan.step // 16, "unrolled") as kk:
            with body.loop("i", self.m_count, "unrolled") as i:
                # Lanes 0-7, 8-15, 16-23, 24-31 address the quadrants (m, k): (0,0), (1,0), (0,1), (1,1).
                self._fragment(rows, self.m_first + i * 16, kk * 16, True, self._a, i)
            with body.loop("j", self.n_count // 2, "unrolled") as j:
                # Two 8-column fragments: the quadrants (n, k): (0,0), (0,1), (1,0), (1,1).
                self._fragment(columns, self.n_first + j * 16, kk * 16, False, self._b, j)
            with body.loop("i", self.m_count, "unrolled") as i, body.loop("j", self.n_count, "unrolled") as j:
                self._mma(i, j)

    def _mma(self, i: Expr, j: Expr) -> None:
        body = self.body
        self_sum = self.sums[body.index(body.simplify((i * self.n_count + j) * 4))]
        a, b = self._a[body.index(body.simplify(i * 4))], self._b[body.index(body.simplify(j * 2))]
        pointers = [tir_op.address_of(x) for x in (self_sum, a, b)]
        body.call(f"tw_mma_{self.dtype}", *pointers, source=ptx.MMA[self.dtype])

    def _fragment(self, tile: Fragments, outer: Expr, k: Expr, outer_first: bool, into: Prim, number: Expr) -> None:
        """Loads four 8×8 quadrants of a 16×16 piece of a tile."""
        body = self.body
        row_in, quadrant = self.lane % 8, self.lane // 8
        fast, slow = quadrant % 2, quadrant // 2
        of_outer, of_k = (fast, slow) if outer_first else (slow, fast)
        if tile.plan.along_k:
            row, first = outer + of_outer * 8 + row_in, k + of_k * 8
        else:
            row, first = k + of_k * 8 + row_in, outer + of_outer * 8
        chunk = body.index(body.simplify(first // CHUNK))
        place = body.index(tile.start) + tile.plan.element(body.index(body.simplify(row)), chunk)
        name = "tw_ldmatrix_x4" if tile.plan.along_k else "tw_ldmatrix_x4_trans"
        source = ptx.LDMATRIX if tile.plan.along_k else ptx.LDMATRIX_TRANS
        target = into[body.index(body.simplify(number * 4))]
        body.call(name, tir_op.address_of(target), tir_op.address_of(tile.buffer[place]), source=source)

    def piece(self, m_base: Expr, n_base: Expr) -> Piece:
        """Where the sums of this thread stand in a result whose block begins at a row and a column."""
        row = m_base + self.m_first + self.lane // 4
        column = n_base + self.n_first + self.lane % 4 * 2
        return Piece(self.sums, self.m_count, self.n_count, row, column)

    def store(self, spec: FlatSpec, roles: Contraction, batch: Mapping[str, Expr], row: Expr, column: Expr) -> None:
        """Runs the epilogue at every point, where the block begins at a row and a column of the result."""
        store_pieces(self.body, spec, roles, batch, self.piece(row, column))
