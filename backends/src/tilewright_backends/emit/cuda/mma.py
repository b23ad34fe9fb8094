"""Contractions of 16-bit operands by `mma.sync` with a ring of shared tiles filled by `cp.async`."""

from __future__ import annotations

import attrs

from tilewright.errors import InternalError
from tilewright.ir.expr import const
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.cuda import ptx
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.epilogue import store_pieces
from tilewright_backends.emit.cuda.warp_tile import WARP, Fragments, WarpTile
from tilewright_backends.emit.gpu.half_tiles import HalfTile, HalfTilePlan
from tilewright_backends.emit.gpu.points import count, decompose
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.tensor import TensorDetail, detail_of


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
    across = tiles.n_block // tiles.n_warp
    warp_tile = WarpTile(body, tiles.m_warp, tiles.n_warp, across, halves[0].dtype)
    warp_tile.clear()
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
        at = body.hold(trip % tiles.stages, "stage")
        warp_tile.multiply(*(Fragments(x.plan, x.buffer, body.hold(at * x.pitch, "start")) for x in halves))
        with body.when(more):
            for half in halves:
                half.finish(into)
    piece = warp_tile.piece(m_tile * tiles.m_block, n_tile * tiles.n_block)
    store_pieces(body, spec, c, batch, piece)
