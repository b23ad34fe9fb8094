"""Products after products by `wgmma`: what passes between them stays in shared memory.

Warpgroups have roles: one fetches rows and tiles of columns through tensor maps, the others multiply, each its own
rows. Tiles of columns come through a ring that runs on from link to link and from one tile of rows to the next. What a
link makes replaces its rows, which its warpgroup alone reads, so one stores results while another multiplies: they wait
for each other only where one needs a stage of the ring that the other has not read. The next tile's first rows are
fetched meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Expr, const
from tilewright.ir.program import Kernel
from tilewright.views.staged import StagedSpec
from tilewright_backends.emit.cuda import mbarrier, ptx
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.epilogue import store_pieces
from tilewright_backends.emit.cuda.fetched import Fetched
from tilewright_backends.emit.cuda.mbarrier import Barriers
from tilewright_backends.emit.cuda.passing import HeldRows, pass_on
from tilewright_backends.emit.cuda.warpgroup import STEP, WARPGROUP, SharedTiles, WarpgroupTile
from tilewright_backends.emit.cuda.wgmma_ring import RingTiles
from tilewright_backends.emit.gpu.body import i32
from tilewright_backends.emit.gpu.half_tiles import HalfTilePlan
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.cuda.chain_wgmma import FetchedChain, block_columns, fetched_chain
from tilewright_backends.recipes.cuda.wgmma_ring import FETCHER_REGISTERS, MULTIPLIER_REGISTERS


def emit(body: Body, kernel: Kernel, staged: StagedSpec) -> None:
    """The code of one task of a kernel: every `tasks`-th tile of rows, through all links."""
    detail = fetched_chain(staged)
    if detail is None:
        raise InternalError(f"cuda.chain_wgmma does not take kernel {kernel.name}.")
    choice = kernel.choice
    m_block, n_block, m_group, stages = (choice[x] for x in ("m.block", "n.block", "m.group", "stages"))
    tiles = RingTiles(m_block, n_block, m_group, stages, choice.resources.tasks)
    _Emitter(body, detail, tiles, {slot: value.name for slot, value in kernel.packed}).run()


class _Emitter:
    def __init__(self, body: Body, detail: FetchedChain, tiles: RingTiles, packed: Mapping[int, str]) -> None:
        self.body, self.chain, self.tiles = body, detail.chain, tiles
        links = self.chain.links
        self.count = -(-self.chain.row_count // tiles.m_block)
        self.trips = [-(-x.depth // STEP) for x in links]
        self.blocks = [block_columns(x, tiles.n_block) for x in links]
        self.walks = [-(-x.width // b) for x, b in zip(links, self.blocks, strict=True)]
        steps = [t * w for t, w in zip(self.trips, self.walks, strict=True)]
        self.starts = [sum(steps[:i]) for i in range(len(steps))]
        self.steps = sum(steps)
        storage, dtype = types.storage(self.chain.dtype), self.chain.dtype
        tile = tiles.m_block * STEP
        passed = body.shared(storage, max(self.trips[1:]) * tile, "rows", align=1024)
        pitch = max(self.blocks) * STEP
        ring = body.shared(storage, tiles.stages * pitch, "ring", align=1024)
        first = links[0]
        self.rows = Fetched(
            body, first.spec, first.rows, detail.rows, tiles.m_block, self.trips[0], self.trips[0] * STEP, {}
        )
        self.columns = []
        for number, link in enumerate(links):
            own = {slot - link.first_slot: name for slot, name in packed.items()}
            block, padded = self.blocks[number], self.trips[number] * STEP
            boxes = detail.columns[number]
            self.columns.append(
                Fetched(body, link.spec, link.columns, boxes, block, tiles.stages, padded, own, ring, pitch)
            )
        self.held = [self.rows.shared, *[SharedTiles(passed, dtype, True, tile)] * (len(links) - 1)]
        self.full = Barriers(body, tiles.stages, 1)
        self.empty = Barriers(body, tiles.stages, 4 * tiles.groups)
        self.rows_full = Barriers(body, 1, 1)
        self.rows_empty = Barriers(body, 1, 4 * tiles.groups)

    def run(self) -> None:
        """Sets up the barriers, then the warpgroups part."""
        body, tiles = self.body, self.tiles
        with body.when(body.index(body.thread < 1)):
            for barriers in (self.full, self.empty, self.rows_full, self.rows_empty):
                barriers.start()
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
        """How many tiles of rows this block takes.

        It is never known to be one: without a loop around the links the assembler keeps more in registers than it has.
        """
        body, tiles = self.body, self.tiles
        task = body.define("block", body.task_var, Interval(0, self.count + tiles.blocks - 1))
        return body.hold((const(self.count + tiles.blocks - 1) - task) // tiles.blocks, "rounds")

    def _tile(self, turn: Expr) -> Expr:
        return self.body.hold(self.body.task + turn * self.tiles.blocks, "tile")

    def _stage(self, step: Expr) -> tuple[Expr, Expr]:
        """The place in the ring of step `step` since the start, and the parity of its round."""
        body = self.body
        return body.hold(step % self.tiles.stages, "stage"), body.hold(step // self.tiles.stages % 2, "parity")

    def _fetch(self) -> None:
        """One thread fetches what the others multiply, as far ahead as the ring is long."""
        body, rounds = self.body, self._rounds()
        self._fetch_rows(const(0))
        with body.loop("turn", rounds) as turn:
            for number, columns in enumerate(self.columns):
                if number == len(self.columns) - 1:
                    # The first link has long read the rows by now, so that this hardly waits.
                    with body.when(body.index(body.simplify(turn + 1 < rounds))):
                        self._fetch_rows(body.simplify(turn + 1))
                trips = self.trips[number]
                with body.loop("walk", self.walks[number]) as walk, body.loop("trip", trips) as trip:
                    step = body.hold(turn * self.steps + (self.starts[number] + walk * trips + trip), "step")
                    stage, parity = self._stage(step)
                    self.empty.wait(stage, body.simplify(1 - parity))
                    self.full.expect(stage, columns.bytes)
                    columns.fetch(self.full, stage, stage, walk, trip, {})

    def _fetch_rows(self, turn: Expr) -> None:
        body = self.body
        self.rows_empty.wait(const(0), body.simplify(1 - turn % 2))
        self.rows_full.expect(const(0), self.rows.bytes * self.trips[0])
        with body.loop("trip", self.trips[0]) as trip:
            self.rows.fetch(self.rows_full, const(0), trip, self._tile(turn), trip, {})

    def _multiply(self) -> None:
        body = self.body
        self.group = body.hold(body.thread // WARPGROUP - 1, "group")
        self.first_lane = body.bind(body.index(body.thread % 32 < 1), "first_lane")
        with body.loop("turn", self._rounds()) as turn:
            base = body.hold(self._tile(turn) * self.tiles.m_block, "first_row")
            self.rows_full.wait(const(0), body.simplify(turn % 2))
            for number in range(len(self.chain.links)):
                self._link(number, turn, base)

    def _link(self, number: int, turn: Expr, base: Expr) -> None:
        """A link: walks over blocks of its columns, each along the whole reduction."""
        body, tiles = self.body, self.tiles
        trips = self.trips[number]
        operands = (self.held[number], self.columns[number].shared)
        result = WarpgroupTile(body, self.group, tiles.m_group, self.blocks[number], operands)
        wait, wait_source = ptx.wgmma_wait(1)
        with body.loop("walk", self.walks[number]) as walk:
            start = body.hold(turn * self.steps + (self.starts[number] + walk * trips), "start")
            result.clear()
            if trips > 1:
                with body.loop("trip", trips - 1) as trip:
                    before = self._step(result, start, trip)
                    # The products before these are done, and what they read may be fetched anew.
                    body.call(wait, source=wait_source)
                    self.empty.arrive(before, tirx.And(self.first_lane, body.index(const(0) < trip)))
            before = self._step(result, start, const(trips - 1))
            result.finish()
            if trips > 1:
                self.empty.arrive(before, self.first_lane)
            self.empty.arrive(body.hold((start + (trips - 1)) % tiles.stages, "done"), self.first_lane)
            if number == 0:
                self.rows_empty.arrive(const(0), self.first_lane)
            self._finish(number, result, base, body.hold(walk * self.blocks[number], "first"))

    def _step(self, result: WarpgroupTile, start: Expr, trip: Expr) -> Expr:
        """Starts the products of a step, when its columns are there; gives the stage before."""
        body = self.body
        step = body.hold(start + trip, "step")
        stage, parity = self._stage(step)
        self.full.wait(stage, parity)
        result.multiply(trip, stage)
        return body.hold((step + (self.tiles.stages - 1)) % self.tiles.stages, "before")

    def _finish(self, number: int, result: WarpgroupTile, base: Expr, first: Expr) -> None:
        """The epilogue of a block of columns: to memory, to the next link, or both."""
        body, link = self.body, self.chain.links[number]
        if link.stores:
            spec = attrs.evolve(link.spec, stores=link.stores)
            store_pieces(body, spec, link.roles, {}, result.piece(base, first, afresh=True))
        if link.passed is None:
            return
        # All warps of the group have multiplied the rows that are replaced.
        self._meet()
        following = self.chain.links[number + 1]
        operand = attrs.evolve(following.rows, along_k=True)
        plan = HalfTilePlan(operand, self.tiles.m_block, STEP, self.trips[number + 1] * STEP, None)
        held: Prim = self.held[number + 1].buffer
        # The places of all links would take more registers than there are.
        piece = result.piece(const(0), first, afresh=True)
        pass_on(body, self.chain, link, piece, base, HeldRows(body, plan, held))
        body.call("tw_fence_async", source=ptx.FENCE_ASYNC)
        self._meet()

    def _meet(self) -> None:
        """A barrier of the warpgroup."""
        self.body.call("tw_group_barrier", self.body.index(self.group), i32(WARPGROUP), source=ptx.GROUP_BARRIER)
