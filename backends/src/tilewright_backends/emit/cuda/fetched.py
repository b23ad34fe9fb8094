"""Tiles of an operand that one thread fetches through a tensor map."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, const
from tilewright_backends.emit.cuda.body import Body, TensorMap
from tilewright_backends.emit.cuda.mbarrier import Barriers
from tilewright_backends.emit.cuda.warpgroup import STEP, SharedTiles
from tilewright_backends.emit.gpu.points import count
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec, split_number
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.cuda.boxes import WIDTH, Boxes
from tilewright_backends.recipes.gpu.tensor import HalfOperand


class Fetched:
    """One operand: its tiles in shared memory and how they are fetched.

    Args:
        boxes: how it lies in memory; None where it is packed as [tile][k][point of the tile].
        block: outer points of a tile.
        stages: number of tiles in shared memory.
        padded: reduction points of all tiles.
        packed: parameters that hold packed operands, by the slots of their reads.
        buffer: where the tiles lie, by default in a buffer of their own.
        pitch: elements from one stage to the next, by default those of a tile.
    """

    def __init__(
        self,
        body: Body,
        spec: FlatSpec,
        operand: HalfOperand,
        boxes: Boxes | None,
        block: int,
        stages: int,
        padded: int,
        packed: Mapping[int, str],
        buffer: Prim | None = None,
        pitch: int = 0,
    ) -> None:
        self.body, self.boxes, self.block = body, boxes, block
        elements = block * STEP
        self.bytes = elements * dtypes.size_of(operand.dtype)
        shape: tuple[tuple[int, int], ...]
        if buffer is None:
            buffer = body.shared(types.storage(operand.dtype), stages * elements, "tile", align=1024)
        self.shared = SharedTiles(buffer, operand.dtype, boxes is not None and boxes.along_k, pitch or elements)
        if boxes is None:
            name, offset = packed[operand.slot], 0
            tiles = -(-count(operand.outer) // block)
            shape = ((block, 1), (padded, block), (tiles, padded * block))
        else:
            name, offset = spec.reads[operand.slot].value.name, boxes.offset
            shape = tuple((x.extent, x.stride) for x in boxes.dimensions)
        rows = block if self.shared.along_k else STEP
        box = (WIDTH, rows, *[1] * (len(shape) - 2))
        self.map: Prim = body.tensor_map(TensorMap(name, operand.dtype, offset, shape, box))

    def fetch(
        self, full: Barriers, number: Expr, stage: Expr, tile: Expr, trip: Expr, batch: Mapping[str, Expr]
    ) -> None:
        """Starts to fetch the tile's step `trip` of the reduction to a stage; its bytes count for barrier `number`."""
        first = self.body.simplify(tile * self.block)
        if self.boxes is not None and self.shared.along_k:
            self._box(full, number, stage, 0, self._place(self.boxes, first, trip, batch))
            return
        for column in range(-(-self.block // WIDTH)):
            place: tuple[Expr, ...] = (const(column * WIDTH), trip * STEP, tile)
            if self.boxes is not None:
                place = self._place(self.boxes, first + column * WIDTH, trip, batch)
            self._box(full, number, stage, column, place)

    def _box(self, full: Barriers, number: Expr, stage: Expr, column: int, place: tuple[Expr, ...]) -> None:
        body = self.body
        to = self.shared.buffer[body.index(body.simplify(stage * self.shared.elements + column * WIDTH * STEP))]
        full.fetch(number, to, self.map, place)

    def _place(self, boxes: Boxes, outer: Expr, trip: Expr, batch: Mapping[str, Expr]) -> tuple[Expr, ...]:
        """The box's first element in each dimension, the one along memory first."""
        k = split_number(self.body.simplify(trip * STEP), [x.extent for x in boxes.k])
        at: dict[int, Expr] = {id(d): x for d, x in zip(boxes.k, k, strict=True)}
        if boxes.outer is not None:
            at[id(boxes.outer)] = outer
        for dimension in boxes.batch:
            point: Expr = const(0)
            for axis in dimension.axes:
                point = point * count((axis,)) + batch[axis.name]
            at[id(dimension)] = point
        return tuple(at[id(d)] for d in boxes.dimensions)
