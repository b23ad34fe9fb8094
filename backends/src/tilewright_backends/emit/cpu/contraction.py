"""Emits `cpu.contraction`: panels, the register tile, the epilogue."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Const, Expr, ceil_div, const, minimum
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.cpu.function import CpuFunction, Emitted
from tilewright_backends.emit.cpu.panel import Block, Panel
from tilewright_backends.emit.cpu.position import position_of
from tilewright_backends.emit.cpu.semantics import CpuSemantics
from tilewright_backends.lower import types
from tilewright_backends.lower.code import span
from tilewright_backends.lower.flat import split_number
from tilewright_backends.lower.types import Prim, broadcast, literal
from tilewright_backends.recipes.cpu.contraction import packing_of
from tilewright_backends.recipes.cpu.roles import COL, ROW, FedContraction, Side, fed_contraction_of


def emit(kernel: Kernel, spec: KernelSpec, semantics: CpuSemantics) -> Emitted:
    """The kernel's function."""
    found = fed_contraction_of(spec, kernel.choice["lanes"])
    if found is None:
        raise InternalError(f"cpu.contraction does not take kernel {kernel.name}.")
    function = CpuFunction(kernel, semantics)
    _Emitter(function, found, kernel, semantics).run()
    return function.finish()


class _Emitter:
    def __init__(self, function: CpuFunction, found: FedContraction, kernel: Kernel, semantics: CpuSemantics) -> None:
        params = kernel.choice
        self.params = params.as_dict()
        self.function, self.code, self.found, self.semantics = function, function.code, found, semantics
        self.packed = {slot: value.name for slot, value in kernel.packed}
        self.lanes = params["lanes"]
        self.mr = params["rows.tile"]
        self.nv = params["cols.vectors"]
        self.nr = self.nv * self.lanes
        self.inner = params["block.inner"]
        self.outer = params["block.outer"]
        self.other_block = params["other.block"]
        self.depth_block = min(params["depth.block"], found.depth_extents[0])
        self.depth_inner = math.prod(found.depth_extents[1:])
        self.tile = {id(found.rows): self.mr, id(found.cols): self.nr}
        self.lane = function.lane(self.lanes)
        self.panel: Panel | None = None
        self.batch_at: dict[str, Expr] = {}
        self.batch: Expr = const(0)
        self.depth_start: Expr = const(0)

    def run(self) -> None:
        """The steps of the depth over one task's block."""
        found, code = self.found, self.code
        blocked, other = found.blocked, found.other
        at = position_of(self.function, found, self.params)
        self.batch, self.batch_at = at.batch, at.batch_at
        start = {id(blocked): at.blocked_start, id(other): at.other_start}
        here = {id(blocked): at.blocked_here, id(other): at.other_here}
        steps = -(-found.depth_extents[0] // self.depth_block)
        if blocked.feed == "panel":
            self.panel = self._panel(self.function, at.block)
        acc = code.local("acc", found.dtype, self.mr * self.nr)
        if steps == 1:
            self._fill(const(0))
            with self._tiles(here) as tiles:
                self._zero(acc)
                self._accumulate(acc, tiles, start, code.simplify(found.depth_count * self.depth_inner))
                self._store(acc, tiles, start, here)
            return
        self._in_steps(acc, start, here)

    def _panel(self, function: CpuFunction, block: Block, buffer: Prim = None) -> Panel:
        """The panel of a block, of vectors no wider than its rows."""
        lanes, tile = self.lanes, self.tile[id(self.found.blocked)]
        piece = tile if block.inner % tile == 0 and tile % lanes else block.inner
        while lanes > 1 and lanes // 2 >= piece:
            lanes //= 2
        steps = self.depth_block * self.depth_inner
        return Panel(function, self.found, block, tile, steps, lanes, self.lanes, buffer)

    def _fill(self, start: Expr) -> None:
        """Packs the panel, if there is one, from step `start` of the depth on."""
        if self.panel is None:
            return
        helper, found = self.function.helper(), self.found
        buffer = helper.parameter("panel", self.panel.buffer)
        first = helper.number("first", Interval(0, found.depth_extents[0] - 1))
        at = position_of(helper, found, self.params)
        here = helper.code.simplify(minimum(found.depth_count - first, const(self.depth_block)))
        self._panel(helper, at.block, buffer).fill(found.blocked, at.batch_at, first, here)
        self.function.call("pack", helper, [self.panel.buffer.data, self.code.index(start, "int32")])

    def _in_steps(self, acc: Prim, start: dict[int, Expr], here: dict[int, Expr]) -> None:
        """The depth in several steps, the sums kept beside the panel in between."""
        found, code = self.found, self.code
        blocked, other = found.blocked, found.other
        counts = [
            -(-self.outer * self.inner // self.tile[id(blocked)]),
            -(-self.other_block // self.tile[id(other)]),
        ]
        size = self.mr * self.nr

        def held(tiles: dict[int, Expr]) -> Expr:
            """Where a tile's sums are kept."""
            return code.simplify((tiles[id(other)] * counts[0] + tiles[id(blocked)]) * size)

        sums = code.local("sums", found.dtype, counts[0] * counts[1] * size)
        total = counts[0] * counts[1] * size // self.lanes
        with code.loop("z", total) as z:
            index = tirx.Ramp(code.index(z * self.lanes), tirx.const(1, "int32"), self.lanes)
            code.emit(tirx.BufferStore(sums, literal(0, found.dtype, self.lanes), [index]))
        with code.loop("step", code.simplify(ceil_div(found.depth_count, self.depth_block))) as step:
            self.depth_start = code.simplify(step * self.depth_block)
            depth_here = code.simplify(minimum(found.depth_count - self.depth_start, const(self.depth_block)))
            self._fill(self.depth_start)
            with self._tiles(here) as tiles:
                self._move(sums, held(tiles), acc, const(0))
                self._accumulate(acc, tiles, start, code.simplify(depth_here * self.depth_inner))
                self._move(acc, const(0), sums, held(tiles))
        with self._tiles(here) as tiles:
            self._move(sums, held(tiles), acc, const(0))
            self._store(acc, tiles, start, here)

    @contextmanager
    def _tiles(self, here: dict[int, Expr]) -> Iterator[dict[int, Expr]]:
        """Loops over the register tiles, the other side's outermost: its operand stays in the nearest cache."""
        blocked, other = self.found.blocked, self.found.other
        counts = {
            id(side): self.code.simplify((here[id(side)] + (self.tile[id(side)] - 1)) // self.tile[id(side)])
            for side in (blocked, other)
        }
        with self.code.loop("tile", counts[id(other)]) as outer, self.code.loop("tile", counts[id(blocked)]) as inner:
            yield {id(other): outer, id(blocked): inner}

    def _zero(self, acc: Prim) -> None:
        zero = literal(0, self.found.dtype, self.lanes)
        for number in range(self.mr * self.nv):
            self.code.emit(tirx.BufferStore(acc, zero, [span(number * self.lanes, self.lanes)]))

    def _move(self, source: Prim, source_base: Expr, target: Prim, target_base: Expr) -> None:
        """Copies a tile's sums."""
        for number in range(self.mr * self.nv):
            value = tirx.BufferLoad(source, [self._ramp(source_base + number * self.lanes)])
            self.code.emit(tirx.BufferStore(target, value, [self._ramp(target_base + number * self.lanes)]))

    def _ramp(self, base: Expr) -> Prim:
        return tirx.Ramp(self.code.index(self.code.simplify(base), "int32"), tirx.const(1, "int32"), self.lanes)

    def _accumulate(self, acc: Prim, tiles: dict[int, Expr], start: dict[int, Expr], steps: Expr) -> None:
        """The inner loop: outer products of a column of `rows` and a row of `cols`."""
        found, code = self.found, self.code
        with code.loop("k", steps) as k:
            vectors = [code.bind(x, "b") for x in self._vectors(found.cols, tiles, start, k)]
            for m in range(self.mr):
                scalar = code.bind(self._scalar(found.rows, tiles, start, k, m), "a")
                factor = code.bind(broadcast(scalar, self.lanes), "a")
                for n, vector in enumerate(vectors):
                    index = span((m * self.nv + n) * self.lanes, self.lanes)
                    old = tirx.BufferLoad(acc, [index])
                    code.emit(tirx.BufferStore(acc, self._multiply_add(factor, vector, old), [index]))

    def _multiply_add(self, a: Prim, b: Prim, c: Prim) -> Prim:
        if self.found.dtype.startswith("float"):
            return self.semantics.fma(a, b, c)
        return tirx.Add(tirx.Mul(a, b), c)

    def _vectors(self, side: Side, tiles: dict[int, Expr], start: dict[int, Expr], k: Expr) -> list[Prim]:
        """The tile's vectors of the columns' operand at step `k`."""
        found: list[Prim] = []
        for n in range(self.nv):
            if side.feed == "panel":
                assert self.panel is not None
                index = self.panel.index(k, tiles[id(side)] * self.nr + n * self.lanes)
                found.append(tirx.BufferLoad(self.panel.buffer, [self._ramp(index)]))
            else:
                index = self._packed_index(side, tiles, start, k, n * self.lanes)
                found.append(self._unpacked(side, self._ramp(index), self.lanes))
        return found

    def _scalar(self, side: Side, tiles: dict[int, Expr], start: dict[int, Expr], k: Expr, m: int) -> Prim:
        """Element `m` of the tile of the rows' operand at step `k`."""
        if side.feed == "panel":
            assert self.panel is not None
            index = self.panel.index(k, tiles[id(side)] * self.mr + m)
            return tirx.BufferLoad(self.panel.buffer, [self.code.index(self.code.simplify(index))])
        if side.feed == "packed":
            index = self.code.simplify(self._packed_index(side, tiles, start, k, m))
            return self._unpacked(side, self.code.index(index), 1)
        row = start[id(side)] + tiles[id(side)] * self.mr + m
        row = self.code.simplify(minimum(row, side.count - 1))  # rows past the end repeat the last one
        (depth,) = self.found.depth
        at = dict(zip(side.axes, split_number(row, side.counts), strict=True))
        at = {name: self.code.simplify(x) for name, x in at.items()} | self.batch_at
        at[depth] = self.depth_start + k
        return self.function.point(self.found.spec, at).value(side.expr)

    def _packed_index(self, side: Side, tiles: dict[int, Expr], start: dict[int, Expr], k: Expr, offset: int) -> Expr:
        tile = self.tile[id(side)]
        packing = packing_of(self.found, side, tile)
        batches, count, depth, _ = packing.shape
        number = self.code.simplify(start[id(side)] // tile) + tiles[id(side)]
        if batches > 1:
            number = self.batch * count + number
        return (number * depth + self.depth_start * self.depth_inner + k) * tile + offset

    def _unpacked(self, side: Side, index: Prim, lanes: int) -> Prim:
        """The operand's value from its packed constant."""
        access = self.found.spec.reads[side.slot]
        stored = tirx.BufferLoad(self.function.buffers[self.packed[side.slot]], [index])
        loaded = {side.slot: types.from_storage(stored, access.value.dtype)}
        return self.function.point(self.found.spec, {}, lanes, loaded=loaded).value(side.expr)

    def _store(self, acc: Prim, tiles: dict[int, Expr], start: dict[int, Expr], here: dict[int, Expr]) -> None:
        """The epilogue of one tile: rows and columns that lie past the end are left out."""
        rows, cols, code = self.found.rows, self.found.cols, self.code
        rows_even = _divides(self.mr, here[id(rows)])
        cols_even = _divides(self.nr, here[id(cols)])
        for n in range(self.nv):
            present = tiles[id(cols)] * self.nr + (n * self.lanes + self.lanes)
            if cols_even:
                self._store_column(acc, n, tiles, start, here, rows_even, None)
                continue
            inside = code.simplify(present <= here[id(cols)])
            with code.when(code.index(inside)):
                self._store_column(acc, n, tiles, start, here, rows_even, None)
            some = code.simplify((here[id(cols)] < present) & (present - self.lanes < here[id(cols)]))
            with code.when(code.index(some)):
                lanes = tiles[id(cols)] * self.nr + n * self.lanes + self.lane
                mask = broadcast(code.index(code.simplify(lanes < here[id(cols)])), self.lanes)
                self._store_column(acc, n, tiles, start, here, rows_even, mask)

    def _store_column(
        self,
        acc: Prim,
        n: int,
        tiles: dict[int, Expr],
        start: dict[int, Expr],
        here: dict[int, Expr],
        rows_even: bool,
        mask: Prim,
    ) -> None:
        rows, cols, code = self.found.rows, self.found.cols, self.code
        col = start[id(cols)] + tiles[id(cols)] * self.nr + n * self.lanes + self.lane
        for m in range(self.mr):
            local = tiles[id(rows)] * self.mr + m
            at = self.batch_at | {ROW: code.simplify(start[id(rows)] + local), COL: code.simplify(col)}
            there = const(True, "bool") if rows_even else code.simplify(local < here[id(rows)])
            with code.when(code.index(there)):
                sums = tirx.BufferLoad(acc, [span((m * self.nv + n) * self.lanes, self.lanes)])
                point = self.function.point(self.found.tail, at, self.lanes, mask, given={"s0": sums})
                for store in self.found.tail.stores:
                    point.store(store)


def _divides(tile: int, points: Expr) -> bool:
    return isinstance(points, Const) and int(points.value) % tile == 0
