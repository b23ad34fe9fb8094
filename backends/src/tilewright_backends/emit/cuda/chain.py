"""Products after products in one kernel: what passes between them stays in shared memory.

A block has a tile of rows and takes it through all links. The first rows come from memory once; what a link makes is
stored, rounded and with its epilogue done, as the swizzled tiles that the next link multiplies. Tiles of the columns
come through a ring that runs on from link to link, so the next link's first tiles are fetched while a link ends. The
results of a link replace its rows where registers hold all of them; otherwise two buffers take turns.

It is the paper's register and shared connection of operators (OSDI'23, section 3) for products, whose tiles follow from
each other: a tile of rows of a result needs the same rows of the operand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import attrs
from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.expr import Const, Expr, const
from tilewright.ir.program import Kernel
from tilewright.views.staged import StagedSpec
from tilewright_backends.emit.cuda.body import Body
from tilewright_backends.emit.cuda.epilogue import store_pieces
from tilewright_backends.emit.cuda.passing import HeldRows, pad, pass_on
from tilewright_backends.emit.cuda.warp_tile import WARP, WarpTile
from tilewright_backends.emit.gpu.half_tiles import Fragments, HalfTile, HalfTilePlan
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.cuda.chain import block_columns, in_place
from tilewright_backends.recipes.cuda.flat_chain import Chain, flat_chain

_PARTS = 4
"""Of a multiprocessor, each with registers of its own for its warps."""
_REGISTERS = 16384
"""Of one part."""


@attrs.frozen
class ChainTiles:
    """Sizes of the tiles: of a block, of a warp, of a step along the reduction; stages of the ring."""

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


def emit(body: Body, kernel: Kernel, staged: StagedSpec) -> None:
    """The code of one task of a kernel: a block of rows through all links."""
    chain = flat_chain(staged)
    if chain is None:
        raise InternalError(f"cuda.chain does not take kernel {kernel.name}.")
    names = ("m.block", "n.block", "k.step", "m.warp", "n.warp", "stages")
    tiles = ChainTiles(*(kernel.choice[x] for x in names))
    packed = {slot: body.params[value.name] for slot, value in kernel.packed}
    resources = kernel.choice.resources
    warps = _REGISTERS // (WARP * -(-resources.registers // 8) * 8) * _PARTS
    body.together = max(warps * WARP // resources.threads, 1)
    _Emitter(body, chain, tiles, packed).run()


class _Emitter:
    def __init__(self, body: Body, chain: Chain, tiles: ChainTiles, packed: Mapping[int, Prim]) -> None:
        self.body, self.chain, self.tiles = body, chain, tiles
        self.thread = body.thread
        self.base = body.hold(body.task * tiles.m_block, "first_row")
        self.trips = [-(-x.depth // tiles.k_step) for x in chain.links]
        self.blocks = [block_columns(x, tiles.n_warp, tiles.across) for x in chain.links]
        self.walks = [-(-x.width // b) for x, b in zip(chain.links, self.blocks, strict=True)]
        self.steps = [t * w for t, w in zip(self.trips, self.walks, strict=True)]
        self.starts = [sum(self.steps[:i]) for i in range(len(self.steps))]
        self.plans = [self._rows(i) for i in range(len(chain.links))]
        self.columns = [self._columns(i, packed) for i in range(len(chain.links))]
        self.in_place = in_place(chain, tiles.n_block)
        self.held = self._held()
        self.pitch = max(self.blocks) * tiles.k_step
        storage = types.storage(chain.dtype)
        self.ring = body.shared(storage, tiles.stages * self.pitch, "ring", align=1024)
        first = chain.links[0]
        self.source = HalfTile(
            body, first.spec, self.plans[0], first.roles.k, self.base, body.task, {}, self.trips[0], self.held[0]
        )

    def _rows(self, number: int) -> HalfTilePlan:
        """How the rows of a link lie: a tile for each step of the reduction, one behind the other."""
        operand, step = self.chain.links[number].rows, self.tiles.k_step
        if number:
            operand = attrs.evolve(operand, along_k=True)
        return HalfTilePlan(operand, self.tiles.m_block, step, self.trips[number] * step, None)

    def _columns(self, number: int, packed: Mapping[int, Prim]) -> HalfTilePlan:
        link, step = self.chain.links[number], self.tiles.k_step
        buffer = packed[link.packed] if link.packed is not None else None
        return HalfTilePlan(link.columns, self.blocks[number], step, self.trips[number] * step, buffer)

    def _held(self) -> list[Prim]:
        """The buffer that each link reads its rows from."""
        storage, tile = types.storage(self.chain.dtype), self.plans[0].elements
        if self.in_place:
            buffer = self.body.shared(storage, max(self.trips) * tile, "rows", align=1024)
            return [buffer] * len(self.trips)
        both = [self.body.shared(storage, max(self.trips[i::2]) * tile, "rows", align=1024) for i in range(2)]
        return [both[i % 2] for i in range(len(self.trips))]

    def run(self) -> None:
        """All links, one after the other."""
        ahead = self.tiles.stages - 1
        for step in range(ahead):
            for number, (start, count) in enumerate(zip(self.starts, self.steps, strict=True)):
                if start <= step < start + count:
                    self._fetch(number, const(step - start), const(step))
                    if self._brings_rows(number, const(step - start)) is not False:
                        self.source.finish(const(step - start))
            self.body.copies_end()
        for number in range(len(self.chain.links)):
            self._link(number)

    def _brings_rows(self, number: int, step: Expr) -> Prim | bool:
        """Whether a step of a link is the one that fetches a tile of the first rows."""
        if number:
            return False
        return self._condition(step < self.trips[0])

    def _condition(self, condition: Expr) -> Prim | bool:
        short = self.body.simplify(condition)
        return bool(short.value) if isinstance(short, Const) else self.body.index(short)

    def _fetch(self, number: int, step: Expr, slot: Expr) -> None:
        """Starts to fetch what a step of a link multiplies."""
        body, link, plan = self.body, self.chain.links[number], self.columns[number]
        walk, trip = body.hold(step // self.trips[number], "walk"), body.hold(step % self.trips[number], "ahead")
        base = body.hold(walk * plan.extent, "column")
        stages = self.tiles.stages
        tile = HalfTile(
            body, link.spec, plan, link.roles.k, base, walk, {}, stages, self.ring, self.pitch, self.thread
        )
        tile.start(trip, slot)
        self._if(self._brings_rows(number, step), lambda: self.source.start(trip, trip))

    def _if(self, condition: Prim | bool, then: Callable[[], None]) -> None:
        if isinstance(condition, bool):
            if condition:
                then()
            return
        with self.body.when(condition):
            then()

    def _fetch_ahead(self, number: int, step: Expr) -> None:
        """Fetches what is multiplied `stages - 1` steps after a step of a link, whichever link that is of."""
        body, ahead = self.body, self.tiles.stages - 1
        slot = body.hold((step + (self.starts[number] + ahead)) % self.tiles.stages, "into")
        for other in range(number, len(self.steps)):
            before = self.starts[other] - self.starts[number]
            low, high = before - ahead, before - ahead + self.steps[other]
            if low >= self.steps[number] or high <= 0:
                continue
            inside: Prim | bool = True
            for one in (const(low) <= step, step < high):
                found = self._condition(one)
                inside = found if inside is True else inside if found is True else _both(inside, found)
            self._if(inside, partial(self._fetch, other, body.simplify(step - low), slot))

    def _link(self, number: int) -> None:
        """A link: walks over blocks of its columns, each along the whole reduction."""
        body, tiles = self.body, self.tiles
        plan, trips = self.plans[number], self.trips[number]
        width = self.blocks[number] // tiles.across
        # The places of all links would take more registers than there are.
        self.thread = body.afresh(body.thread, "thread")
        tile = WarpTile(body, tiles.m_warp, width, tiles.across, self.chain.dtype, afresh=True)
        with body.loop("walk", self.walks[number]) as walk:
            tile.clear()
            with body.loop("trip", trips) as trip:
                step = body.hold(walk * trips + trip, "step")
                body.wait_for_copies(tiles.stages - 2)
                self._fetch_ahead(number, step)
                body.copies_end()
                slot = body.hold((step + self.starts[number]) % tiles.stages, "stage")
                rows = Fragments(plan, self.held[number], body.hold(trip * plan.elements, "start"))
                columns = Fragments(self.columns[number], self.ring, body.hold(slot * self.pitch, "start"))
                tile.multiply(rows, columns)
                if number == 0:
                    late = body.simplify(step + (tiles.stages - 1))
                    self._if(self._brings_rows(0, late), lambda: self.source.finish(late))
            self._finish(number, tile, body.hold(walk * self.blocks[number], "first"))

    def _finish(self, number: int, tile: WarpTile, first: Expr) -> None:
        """The epilogue of a block of columns: to memory, to the next link, or both."""
        link = self.chain.links[number]
        if link.stores:
            spec = attrs.evolve(link.spec, stores=link.stores)
            store_pieces(self.body, spec, link.roles, {}, tile.piece(self.base, first))
        if link.passed is not None:
            # Other warps may still read the rows that are replaced, or that are padded.
            if self.in_place:
                self.body.sync()
            held = HeldRows(self.body, self.plans[number + 1], self.held[number + 1])
            pass_on(self.body, self.chain, link, tile.piece(const(0), first), self.base, held)
            pad(self.body, self.walks[number] * self.blocks[number], held)


def _both(a: Prim | bool, b: Prim | bool) -> Prim | bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return b if a is True else a if b is True else False
    return tirx.And(a, b)
