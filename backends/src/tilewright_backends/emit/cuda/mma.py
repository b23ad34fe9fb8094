"""Contractions of 16-bit operands by `mma.sync` with a ring of shared tiles filled by `cp.async`."""

from __future__ import annotations

import attrs
from tvm.tirx import op as tir_op

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, const
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.cuda import ptx
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.epilogue import Piece, store_pieces
from tilewright_backends.emit.cuda.half_tiles import HalfTile, HalfTilePlan
from tilewright_backends.emit.cuda.points import count, decompose
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.cuda.tensor import CHUNK, TensorDetail, detail_of

WARP = 32


@attrs.frozen
class MmaTiles:
    """Sizes of the tiles: of a block, of a warp, of a step along the reduction; stages of the ring."""

    m_block: int
    n_block: int
    m_warp: int
    n_warp: int
    k_step: int
    stages: int

    @property
    def threads(self) -> int:
        return WARP * (self.m_block // self.m_warp) * (self.n_block // self.n_warp)


def emit(body: Body, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    detail = detail_of(spec)
    if detail is None:
        raise InternalError(f"cuda.mma does not take kernel {kernel.name}.")
    choice = kernel.choice
    tiles = MmaTiles(*(choice[x] for x in ("m.block", "n.block", "m.warp", "n.warp", "k.step", "stages")))
    buffers = {slot: body.params[value.name] for slot, value in kernel.packed}
    statements(body, detail, tiles, (buffers.get(detail.rows.slot), buffers.get(detail.columns.slot)))


def statements(body: Body, detail: TensorDetail, tiles: MmaTiles, packed: tuple[Prim | None, Prim | None]) -> None:
    """Statements of one task: one `m_block` × `n_block` tile of the result."""
    c, spec = detail.roles, detail.spec
    m_tiles, n_tiles = -(-count(c.m) // tiles.m_block), -(-count(c.n) // tiles.n_block)
    m_tile = body.hold(body.task % m_tiles, "m_tile")
    rest = body.hold(body.task // m_tiles, "rest")
    n_tile = body.hold(rest % n_tiles, "n_tile")
    batch = decompose(body.hold(rest // n_tiles, "b"), c.batch, body) if c.batch else {}
    trips = -(-count(c.k) // tiles.k_step)
    padded = trips * tiles.k_step
    rows = HalfTilePlan(detail.rows, tiles.m_block, tiles.k_step, padded, packed[0])
    columns = HalfTilePlan(detail.columns, tiles.n_block, tiles.k_step, padded, packed[1])
    halves = [
        HalfTile(body, spec, rows, c.k, m_tile * tiles.m_block, m_tile, batch, tiles.stages),
        HalfTile(body, spec, columns, c.k, n_tile * tiles.n_block, n_tile, batch, tiles.stages),
    ]
    warp_tile = _WarpTile(body, tiles, halves)
    for stage in range(tiles.stages - 1):
        if stage < trips:
            for half in halves:
                half.start(const(stage), const(stage))
                half.finish(const(stage))
        body.call("tw_cp_async_commit", source=ptx.CP_ASYNC_COMMIT)
    with body.loop("trip", trips) as trip:
        name, source = ptx.cp_async_wait(tiles.stages - 2)
        body.call(name, source=source)
        body.sync()
        ahead = trip + (tiles.stages - 1)
        more = body.index(body.simplify(ahead < trips))
        into = body.hold(ahead % tiles.stages, "into")
        with body.when(more):
            for half in halves:
                half.start(ahead, into)
        body.call("tw_cp_async_commit", source=ptx.CP_ASYNC_COMMIT)
        warp_tile.multiply(body.hold(trip % tiles.stages, "stage"))
        with body.when(more):
            for half in halves:
                half.finish(into)
    m_base = m_tile * tiles.m_block + warp_tile.m_first
    n_base = n_tile * tiles.n_block + warp_tile.n_first
    store_pieces(body, spec, c, batch, warp_tile.pieces(m_base, n_base))


class _WarpTile:
    """The part of a block's result that one warp computes."""

    def __init__(self, body: Body, tiles: MmaTiles, halves: list[HalfTile]) -> None:
        self.body, self.tiles, self.halves = body, tiles, halves
        across = tiles.n_block // tiles.n_warp
        warp = body.hold(body.thread // WARP, "warp")
        self.lane = body.hold(body.thread % WARP, "lane")
        self.m_first = body.hold(warp // across * tiles.m_warp, "m_first")
        self.n_first = body.hold(warp % across * tiles.n_warp, "n_first")
        self.m_count, self.n_count = tiles.m_warp // 16, tiles.n_warp // 8
        self.sums = body.registers("float32", self.m_count * self.n_count * 4, "sum")
        with body.repeat(self.m_count * self.n_count * 4, "clear") as i:
            body.store(self.sums, i, types.literal(0, "float32"))
        self._a = body.registers("uint32", self.m_count * 4, "a")
        self._b = body.registers("uint32", self.n_count * 2, "b")

    def multiply(self, stage: Expr) -> None:
        """Adds the products of a stage."""
        body, tiles = self.body, self.tiles
        dtype = self.halves[0].dtype
        starts = [body.hold(stage * half.plan.elements, "start") for half in self.halves]
        with body.loop("kk", tiles.k_step // 16, "unrolled") as kk:
            with body.loop("i", self.m_count, "unrolled") as i:
                # Lanes 0-7, 8-15, 16-23, 24-31 address the quadrants (m, k): (0,0), (1,0), (0,1), (1,1).
                self._fragment(self.halves[0], starts[0], self.m_first + i * 16, kk * 16, True, self._a, i)
            with body.loop("j", self.n_count // 2, "unrolled") as j:
                # Two 8-column fragments: the quadrants (n, k): (0,0), (0,1), (1,0), (1,1).
                self._fragment(self.halves[1], starts[1], self.n_first + j * 16, kk * 16, False, self._b, j)
            with body.loop("i", self.m_count, "unrolled") as i, body.loop("j", self.n_count, "unrolled") as j:
                self._mma(dtype, i, j)

    def _mma(self, dtype: str, i: Expr, j: Expr) -> None:
        body = self.body
        self_sum = self.sums[body.index(body.simplify((i * self.n_count + j) * 4))]
        a, b = self._a[body.index(body.simplify(i * 4))], self._b[body.index(body.simplify(j * 2))]
        pointers = [tir_op.address_of(x) for x in (self_sum, a, b)]
        body.call(f"tw_mma_{dtype}", *pointers, source=ptx.MMA[dtype])

    def _fragment(
        self, half: HalfTile, start: Expr, outer: Expr, k: Expr, outer_first: bool, into: Prim, number: Expr
    ) -> None:
        """Loads four 8×8 quadrants of a 16×16 piece of a tile."""
        body = self.body
        row_in, quadrant = self.lane % 8, self.lane // 8
        fast, slow = quadrant % 2, quadrant // 2
        of_outer, of_k = (fast, slow) if outer_first else (slow, fast)
        if half.plan.along_k:
            row, first = outer + of_outer * 8 + row_in, k + of_k * 8
        else:
            row, first = k + of_k * 8 + row_in, outer + of_outer * 8
        chunk = body.index(body.simplify(first // CHUNK))
        place = body.index(start) + half.element(body.index(body.simplify(row)), chunk)
        name = "tw_ldmatrix_x4" if half.plan.along_k else "tw_ldmatrix_x4_trans"
        source = ptx.LDMATRIX if half.plan.along_k else ptx.LDMATRIX_TRANS
        target = into[body.index(body.simplify(number * 4))]
        body.call(name, tir_op.address_of(target), tir_op.address_of(half.buffer[place]), source=source)

    def pieces(self, m_base: Expr, n_base: Expr) -> Piece:
        """Where the sums of this thread stand in the result."""
        row = m_base + self.lane // 4
        column = n_base + self.lane % 4 * 2
        return Piece(self.sums, self.m_count, self.n_count, row, column)
