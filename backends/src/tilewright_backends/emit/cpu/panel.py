"""Panels: a block of one operand, written in the order in which the inner loop reads it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from tvm import tirx

from tilewright.ir.expr import Const, Expr, const
from tilewright_backends.emit.cpu.function import CpuFunction, tail_mask
from tilewright_backends.lower.flat import split_number
from tilewright_backends.lower.types import Prim, broadcast, lanes_of, literal
from tilewright_backends.recipes.cpu.common import extent
from tilewright_backends.recipes.cpu.roles import FedContraction, Side

_UNROLLED = 4
"""Vectors of an image row that are written out one by one."""


@attrs.frozen
class Block:
    """Points of the blocked side that a task takes: `outer` rows of `inner` points each, `width` of which exist.

    Either the rows are whole, or there is just one.
    """

    first_outer: Expr
    first_inner: Expr
    outer: int
    inner: int
    width: Expr


class Panel:
    """`panel[tile, step of the depth, point of the tile]`, or else `panel[step of the depth, point of the block]`.

    The first is read in one stream. It is taken where no vector that is packed lies across two tiles: tiles are whole
    vectors, or image rows are whole tiles, which are then packed one by one.

    Args:
        tile: points of the register tile; the block is padded to whole tiles.
        steps: steps of the depth that it holds.
        lanes: vector width of packing.
        clear: vector width of clearing, at least `lanes`.
        buffer: where it lies already.
    """

    def __init__(
        self,
        function: CpuFunction,
        found: FedContraction,
        block: Block,
        tile: int,
        steps: int,
        lanes: int,
        clear: int,
        buffer: Prim = None,
    ) -> None:
        self.function = function
        self.code = function.code
        self.found = found
        self.block = block
        self.lanes = lanes
        self.clear = clear
        self.width = -(-block.outer * block.inner // tile) * tile
        self.steps = steps
        self.tile = tile
        in_vectors = tile % clear == 0 and (block.outer == 1 or block.inner % lanes == 0)
        self.by_tile = not in_vectors and block.inner % tile == 0
        # The last vector of a tile may reach past its end: into the next step, which is written later, or beyond all.
        self.stride = steps * tile + (clear if self.by_tile else 0)
        self.row = 0 if in_vectors or self.by_tile else self._row_stride()
        self.buffer = buffer
        if buffer is None:  # the last vector of a row may reach past its end
            size = steps * self.row or self.width // tile * self.stride
            self.buffer = self.code.local("panel", found.dtype, size + clear)

    def _row_stride(self) -> int:
        """Elements between steps; rows a multiple of a page's fraction apart would share cache sets."""
        return self.width + self.lanes if self.width % 256 == 0 else self.width

    def index(self, step: Expr, point: Expr) -> Expr:
        """Element number of a point at a step."""
        if self.row:
            return step * self.row + point
        return (point // self.tile) * self.stride + step * self.tile + point % self.tile

    def fill(self, side: Side, batch: Mapping[str, Expr], depth_start: Expr, depth_here: Expr) -> None:
        """Packs `depth_here` points of the first depth axis from `depth_start`, and all of the others."""
        found, code, block = self.found, self.code, self.block
        lane = self.function.lane(self.lanes)
        first, *rest = found.depth
        with code.loop("d", depth_here) as d, code.loops("d", {x: extent(found.spec, x) for x in rest}) as inner:
            step: Expr = d
            for name in rest:
                step = step * extent(found.spec, name) + inner[name]
            at = {**batch, first: code.simplify(depth_start + d), **inner}
            if not self.by_tile:  # then a tile's vectors cover all of it
                self._clear(code.simplify(step))
            with code.loop("row", block.outer) as row:
                digits = split_number(block.first_outer + row, side.counts[:-1])
                at |= {n: code.once(x) for n, x in zip(side.axes[:-1], digits, strict=True)}
                self._row(side, at, step, code.simplify(row * block.inner), lane)

    def _clear(self, step: Expr) -> None:
        """Zeros behind the points of the block, so that the inner loop meets no stray numbers there.

        Whole vectors, written before the points: LLVM 22 generates nonsense (a shuffle of a dead value) where narrower
        stores side by side make up exactly what is loaded as one vector.
        """
        block = self.block
        written = (block.outer - 1) * block.inner + block.inner // self.lanes * self.lanes
        for first in range(written // self.clear * self.clear, self.width, self.clear):
            self._write(self.code.simplify(self.index(step, const(first))), literal(0, self.found.dtype, self.clear))

    def _row(self, side: Side, at: dict[str, Expr], step: Expr, start: Expr, lane: Expr) -> None:
        """One image row, or a piece of one, in vectors. Rows are written in order: each covers the excess before it."""
        code, count = self.code, -(-self.block.inner // self.lanes)
        if self.by_tile:
            self._tiles(side, at, step, start, lane)
            return
        whole = count - 1 if self.block.inner % self.lanes or not _is_literal(self.block.width) else count
        if count <= _UNROLLED:
            for number in range(count):
                self._vector(side, at, step, start, const(number * self.lanes), lane, number >= whole)
            return
        with code.loop("v", whole) as v:
            self._vector(side, at, step, start, v * self.lanes, lane, not _is_literal(self.block.width))
        for number in range(whole, count):
            self._vector(side, at, step, start, const(number * self.lanes), lane, True)

    def _tiles(self, side: Side, at: dict[str, Expr], step: Expr, start: Expr, lane: Expr) -> None:
        """One image row, tile by tile. The last tile's vectors may reach past the row."""
        code, tiles, known = self.code, self.block.inner // self.tile, _is_literal(self.block.width)
        inside = tiles - (self.tile % self.lanes != 0) if known else 0
        numbers: list[tuple[Expr, bool]] = [(const(x), x >= inside) for x in range(tiles)]
        if tiles > _UNROLLED:
            with code.loop("t", inside or tiles) as t:
                self._tile(side, at, step, start, t, lane, not known)
            numbers = numbers[inside or tiles :]
        for number, partial in numbers:
            self._tile(side, at, step, start, number, lane, partial)

    def _tile(
        self, side: Side, at: dict[str, Expr], step: Expr, start: Expr, number: Expr, lane: Expr, partial: bool
    ) -> None:
        for first in range(0, self.tile, self.lanes):
            begin = self.code.simplify(number * self.tile + first)
            self._vector(side, at, step, start, begin, lane, partial)

    def _vector(
        self, side: Side, at: dict[str, Expr], step: Expr, start: Expr, first: Expr, lane: Expr, partial: bool
    ) -> None:
        code, block = self.code, self.block
        mask: Prim = None
        if partial and isinstance(first, Const) and isinstance(block.width, Const):
            mask = tail_mask(int(first.value), int(block.width.value), self.lanes)
        elif partial:
            mask = broadcast(code.index(code.simplify(first + lane < block.width)), self.lanes)
        where = {**at}
        if side.axes:
            where[side.axes[-1]] = code.simplify(block.first_inner + first + lane)
        value = self.function.point(self.found.spec, where, self.lanes, mask).value(side.expr)
        self._write(code.simplify(self.index(step, start + first)), broadcast(value, self.lanes))

    def _write(self, base: Expr, value: Prim) -> None:
        start, lanes = self.code.index(base, "int32"), lanes_of(value)
        index = start if lanes == 1 else tirx.Ramp(start, tirx.const(1, "int32"), lanes)
        self.code.emit(tirx.BufferStore(self.buffer, value, [index]))


def _is_literal(expr: Expr) -> bool:
    return isinstance(expr, Const)
