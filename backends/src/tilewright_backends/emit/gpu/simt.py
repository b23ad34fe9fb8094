"""Contractions on the ordinary arithmetic units: shared tiles, register tiles, one tile loaded ahead.

Runs matrix products and, as implicit products, convolutions: the tiles are gathered through the operands' index
functions with their guards, so nothing is unfolded in memory.
"""

from __future__ import annotations

from contextlib import nullcontext

import attrs

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, Extent, as_expr, as_extent, ceil_div, const, maximum
from tilewright.ir.ops import Axis
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.gpu.body import GpuBody, i32
from tilewright_backends.emit.gpu.neighbours import store_neighbours
from tilewright_backends.emit.gpu.points import decompose, points_in, whole
from tilewright_backends.emit.gpu.tiles import Team, TileLoader, plan_tile
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.point import Point
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.contraction import Contraction
from tilewright_backends.recipes.gpu.simt import detail_of

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


def emit(body: GpuBody, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    detail = detail_of(spec)
    if detail is None:
        raise InternalError(f"simt does not take kernel {kernel.name}.")
    choice = kernel.choice
    tiles = SimtTiles(*(choice[x] for x in ("m.block", "n.block", "k.step", "m.thread", "n.thread", "slices")))
    buffers = {slot: body.params[value.name] for slot, value in kernel.packed}
    rows, columns = (None if x is None else buffers.get(x) for x in detail.constants)
    statements(body, detail.spec, detail.roles, tiles, (rows, columns))


def statements(
    body: GpuBody, spec: FlatSpec, contraction: Contraction, tiles: SimtTiles, packed: tuple[Prim | None, Prim | None]
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
    """(first point, points) of the runs that one thread owns: of a vector's length, spread over the tile."""
    width = next(x for x in (4, 2, 1) if part % x == 0)
    runs = part // width
    return [(run * (whole // runs), width) for run in range(runs)]


class _Stages:
    """The shared tiles: two stages of both operands for each slice, in one buffer."""

    def __init__(self, body: GpuBody, tiles: SimtTiles, loaders: list[TileLoader], slice_: Expr, cell: str) -> None:
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

    def offset(self, operand: int, stage: Expr, unit: int = 1) -> Expr:
        """Where an operand's tile starts in this thread's slice, in units of so many elements, a divisor of 4."""
        before = 2 * self._sizes[0] if operand else 0
        parts = (self._slice_size // unit, before // unit, self._sizes[operand] // unit)
        return self._slice * parts[0] + parts[1] + stage * parts[2]

    def fetch(self, trip: Expr) -> None:
        for loader in self.loaders:
            loader.fetch(trip)

    def put(self, stage: Expr) -> None:
        for number, loader in enumerate(self.loaders):
            loader.put(self.buffer, self.rows[number], self.offset(number, stage))


@attrs.frozen
class _Runs:
    """How a thread reads its points of a row of a shared tile: runs of `width` neighbours at `firsts`.

    Args:
        tile: the tile's memory in units of `unit` elements.
        row: units from row to row.
    """

    firsts: tuple[int, ...]
    width: int
    unit: int
    tile: Prim
    row: int


class _RegisterTile:
    """The part of a block's result that one thread computes."""

    def __init__(self, body: GpuBody, tiles: SimtTiles, stages: _Stages, member: Expr) -> None:
        self.body, self.tiles, self.stages, self.member = body, tiles, stages, member
        across, down = tiles.n_block // tiles.n_thread, tiles.m_block // tiles.m_thread
        self.tx, self.ty = _places(body, member, across, down)
        self.m_runs = _groups(tiles.m_block, tiles.m_thread)
        self.n_runs = _groups(tiles.n_block, tiles.n_thread)
        self.sums = body.registers(stages.cell, tiles.m_thread * tiles.n_thread, "sum")
        with body.repeat(tiles.m_thread * tiles.n_thread, "clear") as i:
            body.store(self.sums, i, types.literal(0, stages.cell))
        # Two of each: while one is multiplied, the other is filled.
        self._a = [body.registers(stages.cell, tiles.m_thread, "a") for _ in range(2)]
        self._b = [body.registers(stages.cell, tiles.n_thread, "b") for _ in range(2)]
        self._runs = [self._seen(0, self.m_runs), self._seen(1, self.n_runs)]

    def _seen(self, operand: int, runs: list[tuple[int, int]]) -> _Runs:
        width, stages = runs[0][1], self.stages
        whole = width in (2, 4) and all(first % width == 0 for first, _ in runs)
        unit = width if whole and stages.cell in ("float32", "int32") else 1
        tile = self.body.vectors(stages.buffer, unit)
        return _Runs(tuple(first // unit for first, _ in runs), width, unit, tile, stages.rows[operand] // unit)

    def multiply(self, stage: Expr) -> None:
        """Adds the products of the shared tiles of a stage."""
        body, tiles = self.body, self.tiles
        # All that varies from thread to thread is in one number for each operand, the rest is known to the compiler.
        bases = [
            body.hold(self.stages.offset(i, stage, x.unit) + who * (x.width // x.unit), "base")
            for i, (x, who) in enumerate(zip(self._runs, (self.ty, self.tx), strict=True))
        ]

        def pick(kk: Expr, half: int) -> None:
            self._pick(self._runs[0], bases[0], kk, self._a[half])
            self._pick(self._runs[1], bases[1], kk, self._b[half])

        pick(const(0), 0)
        with body.loop("kk", tiles.k_step // 2, "unrolled") as pair:
            body.in_order()
            pick(pair * 2 + 1, 1)
            self._products(0)
            with body.when(body.index(pair < tiles.k_step // 2 - 1)) if tiles.k_step > 2 else nullcontext():
                pick(pair * 2 + 2, 0)
            self._products(1)
        # Put off until the sums are used, the products would keep all that they multiply in registers.
        body.settle(self.sums, 0, tiles.m_thread * tiles.n_thread)

    def _products(self, half: int) -> None:
        body, tiles = self.body, self.tiles
        a, b = self._a[half], self._b[half]
        with body.repeat(tiles.m_thread, "i") as i, body.repeat(tiles.n_thread, "j") as j:
            at = i * tiles.n_thread + j
            body.store(self.sums, at, self.sums[at] + a[i] * b[j])

    def _pick(self, runs: _Runs, base: Expr, kk: Expr, into: Prim) -> None:
        """Loads a thread's points of row `kk` of a shared tile."""
        body = self.body
        near = body.vectors(into, runs.unit)
        for number, first in enumerate(runs.firsts):
            for i in range(runs.width // runs.unit):
                place = body.index(body.simplify(base + kk * runs.row + (first + i)))
                body.store(near, i32(number * (runs.width // runs.unit) + i), runs.tile[place])

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
                body.store(self.sums, i, body.settled(self.sums[i] + pool[place + i * tiles.team]))


def _places(body: GpuBody, member: Expr, across: int, down: int) -> tuple[Expr, Expr]:
    """Column and row of a thread among the `down` x `across` of a team.

    A warp takes 8 columns and 4 rows where that goes up: then it reads least of the shared tiles.
    """
    wide, high = 8, 4
    if across % wide or down % high:
        return body.hold(member % across, "tx"), body.hold(member // across, "ty")
    lane, warp = body.hold(member % (wide * high), "lane"), body.hold(member // (wide * high), "warp")
    warps = across // wide
    return (
        body.hold(warp % warps * wide + lane % wide, "tx"),
        body.hold(warp // warps * high + lane // wide, "ty"),
    )


def _store(
    body: GpuBody,
    spec: FlatSpec,
    c: Contraction,
    tiles: SimtTiles,
    register_tile: _RegisterTile,
    m_tile: Expr,
    n_tile: Expr,
    batch: dict[str, Expr],
) -> None:
    """Runs the epilogue at every point of the register tile, at neighbouring columns together."""
    inner = c.n[-1]
    lanes = next(x for x in (4, 2, 1) if register_tile.n_runs[0][1] % x == 0 and whole(inner.extent, x))
    columns = _outer(body, c.n, n_tile * tiles.n_block, register_tile.tx, register_tile.n_runs, lanes)
    rows = _outer(body, c.m, m_tile * tiles.m_block, register_tile.ty, register_tile.m_runs, 1)
    for i, (row, row_inside) in enumerate(rows):
        with nullcontext() if row_inside is None else body.when(row_inside):
            for j, (column, column_inside) in enumerate(columns):
                first = i * tiles.n_thread + j * lanes

                def states(lane: int, point: Point, first: int = first) -> list[Prim]:
                    return [register_tile.sums[i32(first + lane)]]

                with nullcontext() if column_inside is None else body.when(column_inside):
                    store_neighbours(body, spec, {**batch, **row, **column}, inner, lanes, states, spec.body_reads)


def _outer(
    body: GpuBody, axes: tuple[Axis, ...], base: Expr, who: Expr, runs: list[tuple[int, int]], lanes: int
) -> list[tuple[dict[str, Expr], Prim | None]]:
    """Axis values of every `lanes`-th point that a thread owns along one side, and whether these are inside."""
    total = points_in(axes)
    found: list[tuple[dict[str, Expr], Prim | None]] = []
    for first, width in runs:
        for i in range(0, width, lanes):
            at = body.hold(base + (first + i) + who * width, "at")
            found.append((decompose(at, axes, body), body.below(at, total)))
    return found
