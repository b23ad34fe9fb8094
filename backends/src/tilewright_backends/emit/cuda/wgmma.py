"""Contractions of 16-bit operands by `wgmma` (sm_90a) with a ring of shared tiles filled by `cp.async`.

All warpgroups load and multiply. One group of products stays under way while the next tile is waited for, so a stage
may be filled again two trips after its products were started.
"""

from __future__ import annotations

import attrs
from tvm.tirx import op as tir_op

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, const
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.cuda import ptx
from tilewright_backends.emit.cuda.body import Body, i32
from tilewright_backends.emit.cuda.epilogue import Piece, store_pieces
from tilewright_backends.emit.cuda.half_tiles import HalfTile, HalfTilePlan
from tilewright_backends.emit.cuda.points import count, decompose
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.cuda.tensor import TensorDetail, detail_of

WARPGROUP = 128
STEP = 64
"""Reduction points of a tile: rows of 128 bytes, the width of the swizzle."""
_ATOM = 1024
"""Bytes of eight swizzled rows."""


@attrs.frozen
class WgmmaTiles:
    """Sizes of the tiles: of a block, rows of a warpgroup, stages of the ring."""

    m_block: int
    n_block: int
    m_group: int
    stages: int

    @property
    def threads(self) -> int:
        return WARPGROUP * (self.m_block // self.m_group)


def emit(body: Body, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    detail = detail_of(spec)
    if detail is None:
        raise InternalError(f"cuda.wgmma does not take kernel {kernel.name}.")
    choice = kernel.choice
    tiles = WgmmaTiles(*(choice[x] for x in ("m.block", "n.block", "m.group", "stages")))
    buffers = {slot: body.params[value.name] for slot, value in kernel.packed}
    statements(body, detail, tiles, (buffers.get(detail.rows.slot), buffers.get(detail.columns.slot)))


def statements(body: Body, detail: TensorDetail, tiles: WgmmaTiles, packed: tuple[Prim | None, Prim | None]) -> None:
    """Statements of one task: one `m_block` × `n_block` tile of the result."""
    c, spec = detail.roles, detail.spec
    m_tiles, n_tiles = -(-count(c.m) // tiles.m_block), -(-count(c.n) // tiles.n_block)
    m_tile = body.hold(body.task % m_tiles, "m_tile")
    rest = body.hold(body.task // m_tiles, "rest")
    n_tile = body.hold(rest % n_tiles, "n_tile")
    batch = decompose(body.hold(rest // n_tiles, "b"), c.batch, body) if c.batch else {}
    trips = -(-count(c.k) // STEP)
    rows = HalfTilePlan(detail.rows, tiles.m_block, STEP, trips * STEP, packed[0])
    columns = HalfTilePlan(detail.columns, tiles.n_block, STEP, trips * STEP, packed[1])
    halves = [
        HalfTile(body, spec, rows, c.k, m_tile * tiles.m_block, m_tile, batch, tiles.stages),
        HalfTile(body, spec, columns, c.k, n_tile * tiles.n_block, n_tile, batch, tiles.stages),
    ]
    group_tile = _GroupTile(body, tiles, halves)
    for stage in range(tiles.stages - 2):
        if stage < trips:
            for half in halves:
                half.start(const(stage), const(stage))
                half.finish(const(stage))
        body.call("tw_cp_async_commit", source=ptx.CP_ASYNC_COMMIT)
    wait, wait_source = ptx.cp_async_wait(tiles.stages - 3)
    # Branches among products under way would make the assembler wait for each, so gathered loads come before them.
    gathers = any(not half.plan.chunked for half in halves)
    done, done_source = ptx.wgmma_wait(0 if gathers else 1)
    with body.loop("trip", trips) as trip:
        body.call(wait, source=wait_source)
        body.call("tw_fence_async", source=ptx.FENCE_ASYNC)
        body.sync()
        ahead = trip + (tiles.stages - 2)
        into = body.hold(ahead % tiles.stages, "into")
        for half in halves:
            if not half.plan.chunked:
                half.start(ahead, into, beyond=True)
        group_tile.multiply(body.hold(trip % tiles.stages, "stage"))
        for half in halves:
            if half.plan.chunked:
                half.start(ahead, into, beyond=True)
        body.call("tw_cp_async_commit", source=ptx.CP_ASYNC_COMMIT)
        body.call(done, source=done_source)
        for half in halves:
            half.finish(into)
    if not gathers:
        last, last_source = ptx.wgmma_wait(0)
        body.call(last, source=last_source)
    piece = group_tile.piece(m_tile * tiles.m_block, n_tile * tiles.n_block)
    store_pieces(body, spec, c, batch, piece)


class _GroupTile:
    """The part of a block's result that one warpgroup computes."""

    def __init__(self, body: Body, tiles: WgmmaTiles, halves: list[HalfTile]) -> None:
        self.body, self.tiles, self.halves = body, tiles, halves
        self.first = body.hold(body.thread // WARPGROUP * tiles.m_group, "m_first")
        self.blocks = tiles.m_group // 64
        self.each = tiles.n_block // 2
        self.sums = body.registers("float32", self.blocks * self.each, "sum")
        with body.repeat(self.blocks * self.each, "clear") as i:
            body.store(self.sums, i, types.literal(0, "float32"))

    def multiply(self, stage: Expr) -> None:
        """Starts the products of a stage."""
        body, (rows, columns) = self.body, self.halves
        name, source = ptx.wgmma(self.tiles.n_block, rows.dtype, not rows.plan.along_k, not columns.plan.along_k)
        starts = [body.hold(stage * half.plan.elements, "start") for half in self.halves]
        body.call("tw_wgmma_fence", source=ptx.WGMMA_FENCE)
        for part in range(STEP // 16):
            of_columns = self._descriptor(columns, starts[1], const(0), part)
            for block in range(self.blocks):
                of_rows = self._descriptor(rows, starts[0], self.first + block * 64, part)
                sums = tir_op.address_of(self.sums[i32(block * self.each)])
                body.call(name, sums, of_rows, of_columns, source=source)
        body.call("tw_wgmma_commit", source=ptx.WGMMA_COMMIT)

    def _descriptor(self, half: HalfTile, start: Expr, outer: Expr, part: int) -> Prim:
        """Descriptor of 16 reduction points from `outer` on."""
        body, plan = self.body, half.plan
        if plan.along_k:
            # Rows of 64 reduction points, eight of them to an atom; 16 points are 32 bytes on.
            place = start + outer * STEP + part * 16
            leading, stride = 16, _ATOM
        else:
            # Columns of 64 outer points: one row per reduction point, eight rows to an atom.
            place = start + outer * STEP + part * 16 * 64
            leading, stride = STEP * 128, _ATOM
        pointer = tir_op.address_of(half.buffer[body.index(body.simplify(place))])
        call = body.call(
            "tw_wgmma_descriptor",
            pointer,
            i32(leading),
            i32(stride),
            source=ptx.WGMMA_DESCRIPTOR,
            result="uint64",
        )
        return body.bind(call, "descriptor")

    def piece(self, m_base: Expr, n_base: Expr) -> Piece:
        """Where the sums of this thread stand in the result."""
        body = self.body
        warp, lane = body.hold(body.thread % WARPGROUP // 32, "warp"), body.hold(body.thread % 32, "lane")
        row = m_base + self.first + warp * 16 + lane // 4
        return Piece(self.sums, self.blocks, self.tiles.n_block // 8, row, n_base + lane % 4 * 2, 64)
