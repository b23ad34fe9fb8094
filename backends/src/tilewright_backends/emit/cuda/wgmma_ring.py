"""Contractions of 16-bit operands by `wgmma` (sm_90a) with a ring of shared tiles that one thread has fetched.

One warpgroup fetches boxes by the tensor memory accelerator, the others multiply. Blocks stay and take tile after
tile of the result; the ring runs on from one tile to the next, so that tiles are fetched while results are stored.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, const, minimum
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.cuda import mbarrier, ptx
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.epilogue import store_pieces
from tilewright_backends.emit.cuda.fetched import Fetched
from tilewright_backends.emit.cuda.mbarrier import Barriers
from tilewright_backends.emit.cuda.warpgroup import STEP, WARPGROUP, WarpgroupTile
from tilewright_backends.emit.gpu.points import count, decompose
from tilewright_backends.recipes.cuda.wgmma_ring import (
    FETCHER_REGISTERS,
    MULTIPLIER_REGISTERS,
    RingDetail,
    detail_of,
)

_RASTER = 2048
"""Rows of the result that blocks side by side work on, so that what they fetch is found in the L2 cache."""


@attrs.frozen
class RingTiles:
    """Sizes: rows of a block, columns of a tile or walk, rows of a warpgroup, stages of the ring, blocks."""

    m_block: int
    n_block: int
    m_group: int
    stages: int
    blocks: int

    @property
    def groups(self) -> int:
        """Warpgroups that multiply."""
        return self.m_block // self.m_group


def emit(body: Body, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel: every `tasks`-th tile of the result."""
    detail = detail_of(spec)
    if detail is None:
        raise InternalError(f"cuda.wgmma_ring does not take kernel {kernel.name}.")
    choice = kernel.choice
    m_block, n_block, m_group, stages = (choice[x] for x in ("m.block", "n.block", "m.group", "stages"))
    tiles = RingTiles(m_block, n_block, m_group, stages, choice.resources.tasks)
    _Ring(body, detail, tiles, {slot: value.name for slot, value in kernel.packed}).run()


class _Ring:
    def __init__(self, body: Body, detail: RingDetail, tiles: RingTiles, packed: Mapping[int, str]) -> None:
        self.body, self.detail, self.tiles = body, detail, tiles
        self.roles = detail.tensor.roles
        self.m_tiles = -(-count(self.roles.m) // tiles.m_block)
        self.n_tiles = -(-count(self.roles.n) // tiles.n_block)
        self.count = self.m_tiles * self.n_tiles * count(self.roles.batch)
        self.trips = -(-count(self.roles.k) // STEP)
        sides = (
            (detail.tensor.rows, detail.rows, tiles.m_block),
            (detail.tensor.columns, detail.columns, tiles.n_block),
        )
        self.sides = [
            Fetched(body, detail.tensor.spec, operand, boxes, block, tiles.stages, self.trips * STEP, packed)
            for operand, boxes, block in sides
        ]
        self.full = Barriers(body, tiles.stages, 1)
        self.empty = Barriers(body, tiles.stages, 4 * tiles.groups)

    def run(self) -> None:
        """Sets up the barriers, then the warpgroups part."""
        body, tiles = self.body, self.tiles
        with body.when(body.index(body.thread < 1)):
            self.full.start()
            self.empty.start()
            mbarrier.fence(body)
        body.sync()
        with body.branches(body.index(body.thread < WARPGROUP)) as otherwise:
            if tiles.groups > 1:
                mbarrier.give_registers(body, FETCHER_REGISTERS)
            with body.when(body.index(body.thread < 1)):
                self._fetch()
            otherwise()
            if tiles.groups > 1:
                mbarrier.take_registers(body, MULTIPLIER_REGISTERS)
            self._multiply()

    def _rounds(self) -> Expr:
        """How many tiles this block takes."""
        return self.body.hold((const(self.count + self.tiles.blocks - 1) - self.body.task) // self.tiles.blocks, "mine")

    def _tile(self, turn: Expr) -> tuple[Expr, Expr, Expr]:
        """(tile of rows, tile of columns, number in the batch) of this block's tile number `turn`."""
        body = self.body
        number = body.hold(body.task + turn * self.tiles.blocks, "tile")
        plane = self.m_tiles * self.n_tiles
        inner = body.hold(number % plane, "inner")
        band = max(_RASTER // self.tiles.m_block, 1)
        if self.m_tiles <= band:
            m, n = inner % self.m_tiles, inner // self.m_tiles
        else:
            first = body.hold(inner // (band * self.n_tiles) * band, "band")
            height = body.hold(minimum(const(self.m_tiles) - first, const(band)), "height")
            rest = body.hold(inner % (band * self.n_tiles), "rest")
            m, n = first + rest % height, rest // height
        return body.hold(m, "m_tile"), body.hold(n, "n_tile"), body.hold(number // plane, "b")

    def _stage(self, step: Expr) -> tuple[Expr, Expr]:
        """The place in the ring of step `step` since the start, and the parity of its round."""
        body = self.body
        return body.hold(step % self.tiles.stages, "stage"), body.hold(step // self.tiles.stages % 2, "parity")

    def _fetch(self) -> None:
        """One thread fetches what the others multiply, as far ahead as the ring is long."""
        body = self.body
        size = sum(side.bytes for side in self.sides)
        with body.loop("turn", self._rounds()) as turn:
            m, n, b = self._tile(turn)
            batch = decompose(b, self.roles.batch, body) if self.roles.batch else {}
            with body.loop("trip", self.trips) as trip:
                stage, parity = self._stage(turn * self.trips + trip)
                self.empty.wait(stage, body.simplify(1 - parity))
                self.full.expect(stage, size)
                for side, tile in zip(self.sides, (m, n), strict=True):
                    side.fetch(self.full, stage, stage, tile, trip, batch)

    def _multiply(self) -> None:
        body, tiles = self.body, self.tiles
        shared = [side.shared for side in self.sides]
        group = body.hold(body.thread // WARPGROUP - 1, "group")
        result = WarpgroupTile(body, group, tiles.m_group, tiles.n_block, (shared[0], shared[1]))
        wait, wait_source = ptx.wgmma_wait(1)
        first_lane = body.bind(body.index(body.thread % 32 < 1), "first_lane")
        with body.loop("turn", self._rounds()) as turn:
            result.clear()
            with body.loop("trip", self.trips - 1) as trip:
                before = self._step(result, turn * self.trips + trip)
                # The products before these are done, and what they read may be fetched anew.
                body.call(wait, source=wait_source)
                self.empty.arrive(before, tirx.And(first_lane, body.index(const(0) < trip)))
            last = body.hold(turn * self.trips + (self.trips - 1), "last")
            before = self._step(result, last)
            result.finish()
            if self.trips > 1:
                self.empty.arrive(before, first_lane)
            self.empty.arrive(body.hold(last % tiles.stages, "done"), first_lane)
            m, n, b = self._tile(turn)
            batch = decompose(b, self.roles.batch, body) if self.roles.batch else {}
            piece = result.piece(m * tiles.m_block, n * tiles.n_block)
            store_pieces(body, self.detail.tensor.spec, self.roles, batch, piece)


    def _step(self, result: WarpgroupTile, number: Expr) -> Expr:
        """Starts the products of step `number` since the start, when its tiles are there; gives the stage before."""
        body = self.body
        step = body.hold(number, "step")
        stage, parity = self._stage(step)
        self.full.wait(stage, parity)
        result.multiply(stage, stage)
        return body.hold((step + (self.tiles.stages - 1)) % self.tiles.stages, "before")
