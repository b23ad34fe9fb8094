"""Contractions of 16-bit operands on the matrix units of AMD GPUs, through two stages of tiles in shared memory.

The unit's rows are columns of the result and its columns rows of it, so that a lane has neighbouring columns of a row.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import attrs
from tvm.tirx import op as tir_op

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, const
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.emit.gpu.half_tiles import HalfTile, HalfTilePlan
from tilewright_backends.emit.gpu.neighbours import store_neighbours
from tilewright_backends.emit.gpu.points import count, decompose, whole
from tilewright_backends.emit.rocm.body import RocmBody
from tilewright_backends.lower import types
from tilewright_backends.lower.point import Point
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.tensor import CHUNK, TensorDetail, detail_of
from tilewright_backends.recipes.rocm.matrix import STAGES
from tilewright_backends.recipes.rocm.units import SIDE, Unit, unit_of


@attrs.frozen
class MatrixTiles:
    """Sizes of the tiles: of a block, of a step along the reduction, of a wave."""

    m_block: int
    n_block: int
    k_step: int
    m_wave: int
    n_wave: int


def emit(body: RocmBody, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    detail, unit = detail_of(spec), unit_of(body.arch)
    if detail is None or unit is None:
        raise InternalError(f"rocm.matrix does not take kernel {kernel.name}.")
    tiles = MatrixTiles(*(kernel.choice[x] for x in ("m.block", "n.block", "k.step", "m.warp", "n.warp")))
    buffers = {slot: body.params[value.name] for slot, value in kernel.packed}
    statements(body, detail, unit, tiles, (buffers.get(detail.rows.slot), buffers.get(detail.columns.slot)))


def statements(
    body: RocmBody, detail: TensorDetail, unit: Unit, tiles: MatrixTiles, packed: tuple[Prim | None, Prim | None]
) -> None:
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
        HalfTile(body, spec, rows, c.k, m_tile * tiles.m_block, m_tile, batch, STAGES),
        HalfTile(body, spec, columns, c.k, n_tile * tiles.n_block, n_tile, batch, STAGES),
    ]
    wave_tile = _WaveTile(body, unit, tiles, halves[0], halves[1])
    for half in halves:
        half.start(const(0), const(0))
        half.finish(const(0))
    body.sync()
    with body.loop("trip", trips) as trip:
        more = body.index(body.simplify(trip < trips - 1))
        if trips > 1:
            with body.when(more):
                for half in halves:
                    half.start(trip + 1, const(0))
        here = body.hold(trip % STAGES, "stage")
        wave_tile.multiply(here)
        if trips > 1:
            with body.when(more):
                for half in halves:
                    half.finish(body.hold(1 - here, "there"))
            body.sync()
    wave_tile.store(detail, batch, m_tile * tiles.m_block, n_tile * tiles.n_block)


class _WaveTile:
    """The part of a block's result that one wave computes."""

    def __init__(self, body: RocmBody, unit: Unit, tiles: MatrixTiles, rows: HalfTile, columns: HalfTile) -> None:
        self.body, self.unit, self.tiles, self.rows, self.columns = body, unit, tiles, rows, columns
        across = tiles.n_block // tiles.n_wave
        lane = body.hold(body.thread % body.warp, "lane")
        wave = body.hold(body.thread // body.warp, "wave")
        self.low, self.high = body.hold(lane % SIDE, "low"), body.hold(lane // SIDE, "high")
        self.m_first = body.hold(wave // across * tiles.m_wave, "m_first")
        self.n_first = body.hold(wave % across * tiles.n_wave, "n_first")
        self.m_count, self.n_count = tiles.m_wave // SIDE, tiles.n_wave // SIDE
        total = self.m_count * self.n_count * unit.sums
        self.sums = body.registers("float32", total, "sum")
        with body.repeat(total, "clear") as i:
            body.store(self.sums, i, types.literal(0, "float32"))
        storage = types.storage(rows.dtype)
        self._rows = body.registers(storage, self.m_count * unit.held, "rows")
        self._columns = body.registers(storage, self.n_count * unit.held, "columns")

    def multiply(self, stage: Expr) -> None:
        """Adds the products of the tiles of a stage."""
        body, unit = self.body, self.unit
        # Columns are the unit's rows: of each 16, those that a lane has sums of follow each other in the result.
        turn = body.hold(self.low % unit.apart * unit.sums + self.low // unit.apart, "turn")
        for kk in range(0, self.tiles.k_step, SIDE):
            body.in_order()
            first = const(kk) if unit.shared else self.high * unit.held + kk
            for i in range(self.m_count):
                self._fragment(self.rows, stage, self.m_first + (i * SIDE + self.low), first, self._rows, i)
            for j in range(self.n_count):
                self._fragment(self.columns, stage, self.n_first + (j * SIDE + turn), first, self._columns, j)
            for i in range(self.m_count):
                for j in range(self.n_count):
                    places = (
                        (self.sums, (i * self.n_count + j) * unit.sums),
                        (self._columns, j * unit.held),
                        (self._rows, i * unit.held),
                    )
                    pointers = [tir_op.address_of(buffer[i32(place)]) for buffer, place in places]
                    body.call(f"tw_{unit.name}_{self.rows.dtype}", *pointers)

    def _fragment(self, tile: HalfTile, stage: Expr, outer: Expr, k: Expr, into: Prim, number: int) -> None:
        """Loads what a lane has of 16 outer points: `held` points of the reduction from `k` on, at one of them."""
        body, plan, held = self.body, tile.plan, self.unit.held
        start = body.index(stage * tile.pitch)
        outer = body.hold(outer, "outer")
        if not plan.along_k:
            for e in range(held):
                row, chunk = body.index(body.simplify(k + e)), body.index(body.simplify(outer // CHUNK))
                place = start + plan.element(row, chunk) + body.index(body.simplify(outer % CHUNK))
                body.store(into, i32(number * held + e), tile.buffer[place])
            return
        piece = min(held, CHUNK)
        words = f"uint32x{piece // 2}"
        far = body.view(tile.buffer, words, int(tile.buffer.shape[0]) // piece)
        near = body.view(into, words, int(into.shape[0]) // piece)
        for e in range(held // piece):
            at = body.simplify(k + e * piece)
            chunk = body.index(body.simplify(at // CHUNK))
            place = start + plan.element(body.index(outer), chunk) + body.index(body.simplify(at % CHUNK))
            word = far[tir_op.shift_right(place, i32(piece.bit_length() - 1))]
            body.store(near, i32(number * (held // piece) + e), word)

    def store(self, detail: TensorDetail, batch: dict[str, Expr], m_base: Expr, n_base: Expr) -> None:
        """Runs the epilogue at every point of the wave's result, at a lane's neighbouring columns together."""
        body, unit, c = self.body, self.unit, detail.roles
        inner = c.n[-1]
        lanes = next(x for x in (8, 4, 2, 1) if unit.sums % x == 0 and whole(inner.extent, x))
        m_total, n_total = count(c.m), count(c.n)
        columns = []
        for j in range(self.n_count):
            for e in range(0, unit.sums, lanes):
                at = body.hold(n_base + self.n_first + (j * SIDE + e) + self.high * unit.sums, "n")
                columns.append((j * unit.sums + e, decompose(at, c.n, body), body.below(at, n_total)))
        for i in range(self.m_count):
            row = body.hold(m_base + self.m_first + i * SIDE + self.low, "m")
            inside = body.below(row, m_total)
            with nullcontext() if inside is None else body.when(inside):
                at_row = decompose(row, c.m, body)
                for first, at_column, there in columns:
                    with nullcontext() if there is None else body.when(there):
                        sums = partial(self._sums, i * self.n_count * unit.sums + first)
                        here = {**batch, **at_row, **at_column}
                        store_neighbours(body, detail.spec, here, inner, lanes, sums, detail.spec.body_reads)

    def _sums(self, first: int, lane: int, _: Point) -> list[Prim]:
        return [self.sums[i32(first + lane)]]
