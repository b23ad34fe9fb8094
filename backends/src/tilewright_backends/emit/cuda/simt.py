"""Contractions on the ordinary arithmetic units: shared tiles, register tiles, one tile loaded ahead.

Runs matrix products and, as implicit products, convolutions: the tiles are gathered through the operands' index functions with
their guards, so nothing is unfolded in memory.
"""

from __future__ import annotations

import attrs
from tvm import tirx
from tvm.tirx import op as tir_op

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr
from tilewright.ir.ops import Axis
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.cuda.body import Body, i32
from tilewright_backends.emit.cuda.points import count, decompose, point_at
from tilewright_backends.emit.cuda.tiles import TileLoader, plan_tile
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.cuda.roles import Contraction
from tilewright_backends.recipes.cuda.simt import detail_of

_PAD = 4


@attrs.frozen
class SimtTiles:
    """Sizes of the tiles: of a block, of one thread, and of a step along the reduction."""

    m_block: int
    n_block: int
    k_step: int
    m_thread: int
    n_thread: int

    @property
    def threads(self) -> int:
        return (self.m_block // self.m_thread) * (self.n_block // self.n_thread)


def emit(body: Body, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    detail = detail_of(spec)
    if detail is None:
        raise InternalError(f"cuda.simt does not take kernel {kernel.name}.")
    choice = kernel.choice
    tiles = SimtTiles(*(choice[x] for x in ("m.block", "n.block", "k.step", "m.thread", "n.thread")))
    buffers = {slot: body.params[value.name] for slot, value in kernel.packed}
    rows, columns = (None if x is None else buffers.get(x) for x in detail.constants)
    statements(body, detail.spec, detail.roles, tiles, (rows, columns))


def statements(
    body: Body, spec: FlatSpec, contraction: Contraction, tiles: SimtTiles, packed: tuple[Prim | None, Prim | None]
) -> None:
    """Statements of one task: one `m_block` × `n_block` tile of the result.

    Args:
        packed: buffers of the operands that are stored as [outer tile][k][outer point], zero-padded.
    """
    c = contraction
    m_total, n_total, k_total = count(c.m), count(c.n), count(c.k)
    m_tiles, n_tiles = -(-m_total // tiles.m_block), -(-n_total // tiles.n_block)
    m_tile = body.hold(body.task % m_tiles, "m_tile")
    rest = body.hold(body.task // m_tiles, "rest")
    n_tile = body.hold(rest % n_tiles, "n_tile")
    batch = decompose(body.hold(rest // n_tiles, "b"), c.batch, body) if c.batch else {}
    trips = -(-k_total // tiles.k_step)
    plans = [
        plan_tile(spec, c.rows, c.k, tiles.m_block, tiles.k_step, body.threads, packed[0]),
        plan_tile(spec, c.columns, c.k, tiles.n_block, tiles.k_step, body.threads, packed[1]),
    ]
    loaders = [
        TileLoader(body, spec, plans[0], c.k, m_tile * tiles.m_block, batch, m_tile, c.state),
        TileLoader(body, spec, plans[1], c.k, n_tile * tiles.n_block, batch, n_tile, c.state),
    ]
    rows = [
        plan.extent + (_PAD if plan.along_k else 0) for plan in plans
    ]
    cell = types.carrier(c.state)
    buffers = [body.shared(cell, 2 * tiles.k_step * row, "tile") for row in rows]
    register_tile = _RegisterTile(body, tiles, buffers, rows, cell)
    for loader, buffer, row in zip(loaders, buffers, rows, strict=True):
        loader.fetch(body.constant(0))
        loader.put(buffer, row, body.constant(0))
    body.sync()
    with body.loop("trip", trips) as trip:
        more = body.index(trip < trips - 1)
        if trips > 1:
            with body.when(more):
                for loader in loaders:
                    loader.fetch(trip + 1)
        here = body.hold(trip % 2, "here")
        register_tile.multiply(here)
        if trips > 1:
            there = body.hold(1 - here, "there")
            with body.when(more):
                for loader, buffer, row in zip(loaders, buffers, rows, strict=True):
                    loader.put(buffer, row, there * (tiles.k_step * row))
            body.sync()
    _store(body, spec, c, tiles, register_tile, m_tile, n_tile, batch)


def _groups(whole: int, part: int) -> list[tuple[int, int]]:
    """(first point, points) of the runs that one thread owns: runs of at most four, spread over the tile."""
    width = min(part, 4)
    while part % width:
        width -= 1
    runs = part // width
    return [(run * (whole // runs), width) for run in range(runs)]


class _RegisterTile:
    """The part of a block's result that one thread computes."""

    def __init__(self, body: Body, tiles: SimtTiles, buffers: list[Prim], rows: list[int], cell: str) -> None:
        self.body, self.tiles, self.buffers, self.rows, self.cell = body, tiles, buffers, rows, cell
        across = tiles.n_block // tiles.n_thread
        self.tx = body.hold(body.thread % across, "tx")
        self.ty = body.hold(body.thread // across, "ty")
        self.m_runs = _groups(tiles.m_block, tiles.m_thread)
        self.n_runs = _groups(tiles.n_block, tiles.n_thread)
        self.sums = body.local(cell, tiles.m_thread * tiles.n_thread, "sum")
        with body.repeat(tiles.m_thread * tiles.n_thread, "clear") as i:
            body.store(self.sums, i, types.literal(0, cell))
        self._a = body.local(cell, tiles.m_thread, "a")
        self._b = body.local(cell, tiles.n_thread, "b")

    def multiply(self, stage: Expr) -> None:
        """Adds the products of the shared tiles of a stage."""
        body, tiles = self.body, self.tiles
        with body.loop("kk", tiles.k_step, "unrolled") as kk:
            self._pick(self.buffers[0], self.rows[0], stage, kk, self.ty, self.m_runs, self._a)
            self._pick(self.buffers[1], self.rows[1], stage, kk, self.tx, self.n_runs, self._b)
            with body.repeat(tiles.m_thread, "i") as i, body.repeat(tiles.n_thread, "j") as j:
                at = i * tiles.n_thread + j
                body.store(self.sums, at, self.sums[at] + self._a[i] * self._b[j])

    def _pick(
        self, tile: Prim, row: int, stage: Expr, kk: Expr, who: Expr, runs: list[tuple[int, int]], into: Prim
    ) -> None:
        body = self.body
        at = 0
        for first, width in runs:
            place = body.index(body.simplify((stage * self.tiles.k_step + kk) * row + first + who * width))
            wide = width in (2, 4) and row % width == 0 and first % width == 0 and self.cell in ("float32", "int32")
            if wide:
                near, far = body.vectors(into, width), body.vectors(tile, width)
                body.store(near, i32(at // width), far[tir_op.truncdiv(place, i32(width))])
            else:
                for i in range(width):
                    body.store(into, i32(at + i), tile[place + i])
            at += width


def _store(
    body: Body,
    spec: FlatSpec,
    c: Contraction,
    tiles: SimtTiles,
    register_tile: _RegisterTile,
    m_tile: Expr,
    n_tile: Expr,
    batch: dict[str, Expr],
) -> None:
    """Runs the epilogue at every point of the register tile."""
    columns = _outer(body, c.n, n_tile * tiles.n_block, register_tile.tx, register_tile.n_runs)
    for i, (row, row_inside) in enumerate(
        _outer(body, c.m, m_tile * tiles.m_block, register_tile.ty, register_tile.m_runs)
    ):
        for j, (column, column_inside) in enumerate(columns):
            conditions = [x for x in (row_inside, column_inside) if x is not None]
            inside = None
            for condition in conditions:
                inside = condition if inside is None else tirx.And(inside, condition)
            value = register_tile.sums[i32(i * tiles.n_thread + j)]
            if inside is None:
                _point(body, spec, {**batch, **row, **column}, value)
            else:
                with body.when(inside):
                    _point(body, spec, {**batch, **row, **column}, value)


def _point(body: Body, spec: FlatSpec, at: dict[str, Expr], value: Prim) -> None:
    point = point_at(body, spec, at, [value])
    for store in spec.stores:
        point.store(store)


def _outer(
    body: Body, axes: tuple[Axis, ...], base: Expr, who: Expr, runs: list[tuple[int, int]]
) -> list[tuple[dict[str, Expr], Prim | None]]:
    """Axis values of each point that a thread owns along one side, and whether it is inside."""
    total = count(axes)
    found: list[tuple[dict[str, Expr], Prim | None]] = []
    for first, width in runs:
        for i in range(width):
            number = body.hold(base + (first + i) + who * width, "at")
            inside = body.index(number < total)
            certain = isinstance(inside, tirx.IntImm)
            found.append((decompose(number, axes, body), None if certain else body.bind(inside, "inside")))
    return found
