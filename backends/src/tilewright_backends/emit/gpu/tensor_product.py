"""Contractions of 16-bit operands on tensor cores or matrix units, through a ring of tiles in shared memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from tilewright.ir.expr import Expr, const
from tilewright.ir.program import Kernel
from tilewright_backends.emit.gpu.body import GpuBody
from tilewright_backends.emit.gpu.half_tiles import Fragments, HalfTile, HalfTilePlan
from tilewright_backends.emit.gpu.points import count, decompose
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.recipes.contraction import Contraction
from tilewright_backends.recipes.gpu.tensor import TensorDetail


@attrs.frozen
class ProductTiles:
    """Sizes of the tiles: of a block, of a step along the reduction, of a warp; stages of the ring."""

    m_block: int
    n_block: int
    k_step: int
    m_warp: int
    n_warp: int
    stages: int

    @property
    def across(self) -> int:
        """Warps side by side along the columns."""
        return self.n_block // self.n_warp


class WarpSums(Protocol):
    """The part of a block's result that one warp computes."""

    def clear(self) -> None:
        """Starts the sums at zero."""

    def multiply(self, rows: Fragments, columns: Fragments) -> None:
        """Adds the products of two tiles."""

    def store(self, spec: FlatSpec, roles: Contraction, batch: Mapping[str, Expr], row: Expr, column: Expr) -> None:
        """Runs the epilogue at every point, where the block begins at a row and a column of the result."""


def product(
    body: GpuBody,
    kernel: Kernel,
    detail: TensorDetail,
    tiles: ProductTiles,
    warp_sums: Callable[[Any, ProductTiles, HalfTilePlan, HalfTilePlan], WarpSums],
) -> None:
    """The code of one task: one `m_block` × `n_block` tile of the result.

    Args:
        warp_sums: makes the sums of a warp for tiles of rows and of columns.
    """
    c, spec = detail.roles, detail.spec
    packed = {slot: body.params[value.name] for slot, value in kernel.packed}
    m_tiles, n_tiles = -(-count(c.m) // tiles.m_block), -(-count(c.n) // tiles.n_block)
    m_tile = body.hold(body.task % m_tiles, "m_tile")
    rest = body.hold(body.task // m_tiles, "rest")
    n_tile = body.hold(rest % n_tiles, "n_tile")
    batch = decompose(body.hold(rest // n_tiles, "b"), c.batch, body) if c.batch else {}
    trips = -(-count(c.k) // tiles.k_step)
    padded = trips * tiles.k_step
    rows = HalfTilePlan(detail.rows, tiles.m_block, tiles.k_step, padded, packed.get(detail.rows.slot))
    columns = HalfTilePlan(detail.columns, tiles.n_block, tiles.k_step, padded, packed.get(detail.columns.slot))
    halves = [
        HalfTile(body, spec, rows, c.k, m_tile * tiles.m_block, m_tile, batch, tiles.stages),
        HalfTile(body, spec, columns, c.k, n_tile * tiles.n_block, n_tile, batch, tiles.stages),
    ]
    sums = warp_sums(body, tiles, rows, columns)
    sums.clear()
    for stage in range(tiles.stages - 1):
        if stage < trips:
            for half in halves:
                half.start(const(stage), const(stage))
                half.finish(const(stage))
        body.copies_end()
    with body.loop("trip", trips) as trip:
        body.wait_for_copies(tiles.stages - 2)
        ahead = trip + (tiles.stages - 1)
        more = body.index(body.simplify(ahead < trips))
        into = body.hold(ahead % tiles.stages, "into")
        with body.when(more):
            for half in halves:
                half.start(ahead, into)
        body.copies_end()
        at = body.hold(trip % tiles.stages, "stage")
        sums.multiply(*(half.fragments(at) for half in halves))
        with body.when(more):
            for half in halves:
                half.finish(into)
    sums.store(spec, c, batch, m_tile * tiles.m_block, n_tile * tiles.n_block)
