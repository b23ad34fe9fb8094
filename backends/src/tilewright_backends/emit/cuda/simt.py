"""Contractions on the ordinary arithmetic units: shared tiles, register tiles, one tile loaded ahead.

Runs matrix products and, as implicit products, convolutions: the tiles are gathered through the operands' index
functions with their guards, so nothing is unfolded in memory.
"""

from __future__ import annotations

import attrs
from tvm import tirx
from tvm.tirx import op as tir_op

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, Extent, as_expr, as_extent, ceil_div, const, maximum
from tilewright.ir.ops import Axis
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.cuda.body import Body, i32
from tilewright_backends.emit.cuda.points import decompose, point_at, points_in
from tilewright_backends.emit.cuda.tiles import Team, TileLoader, plan_tile
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.contraction import Contraction
from tilewright_backends.recipes.cuda.simt import detail_of

_PAD = 4


@attrs.frozen
class SimtTiles:
    """Sizes of the tiles.

    Args:
        m_block, n_block: result of a block.
        k_step: reduction points of a shared tile.
        m_thread, n_thread: result of a thread.
        slices: teams of threads in a block that each sum over a part of the reduction.
    """

    m_block: int
    n_block: int
    k_step: int
    m_thread: int
    n_thread: int
    slices: int = 1

    @property
    def team(self) -> int:
        """Threads of a slice."""
        return (self.m_block // self.m_thread) * (self.n_block // self.n_thread)

    @property
    def threads(self) -> int:
        return self.team * self.slices

    def trips(self, k_total: Extent) -> Extent:
        """Shared tiles that each slice goes through."""
        return as_extent(ceil_div(k_total, self.k_step * self.slices))


def emit(body: Body, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    detail = detail_of(spec)
    if detail is None:
        raise InternalError(f"cuda.simt does not take kernel {kernel.name}.")
    choice = kernel.choice
    tiles = SimtTiles(*(choice[x] for x in ("m.block", "n.block", "k.step", "m.thread", "n.thread", "slices")))
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
    # There is no task where a side has no points; the divisions must be harmless all the same.
    m_tiles = maximum(ceil_div(points_in(c.m), tiles.m_block), 1)
    n_tiles = maximum(ceil_div(points_in(c.n), tiles.n_block), 1)
    m_tile = body.hold(body.task % m_tiles, "m_tile")
    rest = body.hold(body.task // m_tiles, "rest")
    n_tile = body.hold(rest % n_tiles, "n_tile")
    batch = decompose(body.hold(rest // n_tiles, "b"), c.batch, body) if c.batch else {}
    team = Team(tiles.team, body.hold(body.thread % tiles.team, "member"))
    slice_ = body.hold(body.thread // tiles.team, "slice")
    trips = tiles.trips(points_in(c.k))
    loaders: list[TileLoader] = []
    for operand, extent, tile, buffer in (
        (c.rows, tiles.m_block, m_tile, packed[0]),
        (c.columns, tiles.n_block, n_tile, packed[1]),
    ):
        padded = trips * (tiles.slices * tiles.k_step)
        plan = plan_tile(spec, operand, c.k, extent, tiles.k_step, padded, team.threads, buffer)
        loaders.append(TileLoader(body, spec, team, plan, c.k, tile * extent, batch, tile, c.state))
    stages = _Stages(body, tiles, loaders, slice_, types.carrier(c.state))
    register_tile = _RegisterTile(body, tiles, stages, team.thread)
    first = body.hold(slice_ * trips, "first")
    several = not isinstance(trips, int) or trips > 1
    stages.fetch(first)
    stages.put(const(0))
    body.sync()
    with body.loop("trip", trips) as trip:
        more = body.index(trip < as_expr(trips) - 1)
        if several:
            with body.when(more):
                stages.fetch(first + trip + 1)
        here = body.hold(trip % 2, "here")
        register_tile.multiply(here)
        if several:
            with body.when(more):
                stages.put(body.hold(1 - here, "there"))
            body.sync()
    if tiles.slices == 1:
        _store(body, spec, c, tiles, register_tile, m_tile, n_tile, batch)
        return
    if trips == 1 or not isinstance(trips, int):
        body.sync()
    register_tile.add_slices(slice_)
    with body.when(body.index(slice_ < 1)):
        _store(body, spec, c, tiles, register_tile, m_tile, n_tile, batch)


def _groups(whole: int, part: int) -> list[tuple[int, int]]:
    """(first point, points) of the runs that one thread owns: runs of at most four, spread over the tile."""
    width = min(part, 4)
    while part % width:
        width -= 1
    runs = part // width
    return [(run * (whole // runs), width) for run in range(runs)]


class _Stages:
    """The shared tiles: two stages of both operands for each slice, in one buffer."""

    def __init__(self, body: Body, tiles: SimtTiles, loaders: list[TileLoader], slice_: Expr, cell: str) -> None:
        self.loaders, self.cell = loaders, cell
        # Transposed stores of neighbouring threads would meet in one bank without the padding.
        self.rows = [x.plan.extent + (_PAD if x.plan.along_k else 0) for x in loaders]
        sizes = [tiles.k_step * row for row in self.rows]
        slice_size = 2 * sum(sizes)
        partial = (tiles.slices - 1) * tiles.m_block * tiles.n_block
        self.buffer = body.shared(cell, max(tiles.slices * slice_size, partial), "tiles")
        self._body = body
        self._slice = slice_
        self._slice_size = slice_size
        self._sizes = sizes

    def offset(self, operand: int, stage: Expr) -> Expr:
        """First element of an operand's tile in this thread's slice."""
        before = 2 * self._sizes[0] if operand else 0
        return self._slice * self._slice_size + before + stage * self._sizes[operand]

    def fetch(self, trip: Expr) -> None:
        for loader in self.loaders:
            loader.fetch(trip)

    def put(self, stage: Expr) -> None:
        for number, loader in enumerate(self.loaders):
            loader.put(self.buffer, self.rows[number], self.offset(number, stage))


class _RegisterTile:
    """The part of a block's result that one thread computes."""

    def __init__(self, body: Body, tiles: SimtTiles, stages: _Stages, member: Expr) -> None:
        self.body, self.tiles, self.stages, self.member = body, tiles, stages, member
        across = tiles.n_block // tiles.n_thread
        self.tx = body.hold(member % across, "tx")
        self.ty = body.hold(member // across, "ty")
        self.m_runs = _groups(tiles.m_block, tiles.m_thread)
        self.n_runs = _groups(tiles.n_block, tiles.n_thread)
        self.sums = body.registers(stages.cell, tiles.m_thread * tiles.n_thread, "sum")
        with body.repeat(tiles.m_thread * tiles.n_thread, "clear") as i:
            body.store(self.sums, i, types.literal(0, stages.cell))
        self._a = body.registers(stages.cell, tiles.m_thread, "a")
        self._b = body.registers(stages.cell, tiles.n_thread, "b")

    def multiply(self, stage: Expr) -> None:
        """Adds the products of the shared tiles of a stage."""
        body, tiles = self.body, self.tiles
        bases = [body.hold(self.stages.offset(i, stage), "base") for i in (0, 1)]
        with body.loop("kk", tiles.k_step, "unrolled") as kk:
            self._pick(bases[0] + kk * self.stages.rows[0], self.ty, self.m_runs, self._a)
            self._pick(bases[1] + kk * self.stages.rows[1], self.tx, self.n_runs, self._b)
            with body.repeat(tiles.m_thread, "i") as i, body.repeat(tiles.n_thread, "j") as j:
                at = i * tiles.n_thread + j
                body.store(self.sums, at, self.sums[at] + self._a[i] * self._b[j])

    def _pick(self, row: Expr, who: Expr, runs: list[tuple[int, int]], into: Prim) -> None:
        """Loads a thread's elements of one row of a shared tile."""
        body, tile = self.body, self.stages.buffer
        at = 0
        for first, width in runs:
            place = body.index(body.simplify(row + first + who * width))
            if width in (2, 4) and first % width == 0 and self.stages.cell in ("float32", "int32"):
                near, far = body.vectors(into, width), body.vectors(tile, width)
                body.store(near, i32(at // width), far[tir_op.truncdiv(place, i32(width))])
            else:
                for i in range(width):
                    body.store(into, i32(at + i), tile[place + i])
            at += width

    def add_slices(self, slice_: Expr) -> None:
        """Adds the sums of all slices to those of the first, through the tiles' memory."""
        body, tiles = self.body, self.tiles
        count_ = tiles.m_thread * tiles.n_thread
        pool = self.stages.buffer
        with body.when(body.index(const(0) < slice_)), body.repeat(count_, "give") as i:
            place = body.index(body.simplify((slice_ - 1) * (count_ * tiles.team) + self.member))
            body.store(pool, place + i * tiles.team, self.sums[i])
        body.sync()
        with body.when(body.index(slice_ < 1)), body.loop("other", tiles.slices - 1) as other:
            place = body.bind(body.index(body.simplify(other * (count_ * tiles.team) + self.member)), "place")
            with body.repeat(count_, "take") as i:
                body.store(self.sums, i, self.sums[i] + pool[place + i * tiles.team])


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
    total = points_in(axes)
    found: list[tuple[dict[str, Expr], Prim | None]] = []
    for first, width in runs:
        for i in range(width):
            at = body.hold(base + (first + i) + who * width, "at")
            found.append((decompose(at, axes, body), body.below(at, total)))
    return found
