"""Contractions of 16-bit operands by `wgmma` (sm_90a) with a ring of shared tiles filled by `cp.async`.

All warpgroups load and multiply. One group of products stays under way while the next tile is waited for, so a stage
may be filled again two trips after its products were started.
"""

from __future__ import annotations

import attrs

from tilewright.errors import InternalError
from tilewright.ir.expr import const
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.cuda import ptx
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.epilogue import store_pieces
from tilewright_backends.emit.cuda.warpgroup import STEP, WARPGROUP, SharedTiles, WarpgroupTile
from tilewright_backends.emit.gpu.half_tiles import HalfTile, HalfTilePlan
from tilewright_backends.emit.gpu.points import count, decompose
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.tensor import TensorDetail, detail_of


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
    shared = [SharedTiles(x.buffer, x.dtype, x.plan.along_k, x.plan.elements) for x in halves]
    group = body.thread // WARPGROUP
    group_tile = WarpgroupTile(body, group, tiles.m_group, tiles.n_block, (shared[0], shared[1]))
    group_tile.clear()
    for stage in range(tiles.stages - 2):
        if stage < trips:
            for half in halves:
                half.start(const(stage), const(stage))
                half.finish(const(stage))
        body.copies_end()
    wait, wait_source = ptx.cp_async_wait(tiles.stages - 3)
    # Branches among products under way would make the assembler wait for each, so gathered loads come before them.
    gathers = any(not half.plan.chunked for half in halves)
    done, done_source = ptx.wgmma_wait(0 if gathers else 1)

    def arrive() -> None:
        """Until the next tile is there for all threads."""
        body.call(wait, source=wait_source)
        body.call("tw_fence_async", source=ptx.FENCE_ASYNC)
        body.sync()

    # The last products stand by themselves where some stay under way (see `WarpgroupTile.finish`).
    with body.loop("trip", trips if gathers else trips - 1) as trip:
        arrive()
        ahead = trip + (tiles.stages - 2)
        into = body.hold(ahead % tiles.stages, "into")
        for half in halves:
            if not half.plan.chunked:
                half.start(ahead, into, beyond=True)
        at = body.hold(trip % tiles.stages, "stage")
        group_tile.multiply(at, at)
        for half in halves:
            if half.plan.chunked:
                half.start(ahead, into, beyond=True)
        body.copies_end()
        body.call(done, source=done_source)
        for half in halves:
            half.finish(into)
    if not gathers:
        arrive()
        at = const((trips - 1) % tiles.stages)
        group_tile.multiply(at, at)
    group_tile.finish()
    piece = group_tile.piece(m_tile * tiles.m_block, n_tile * tiles.n_block)
    store_pieces(body, spec, c, batch, piece)
