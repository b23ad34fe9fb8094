"""Shared tiles of 16-bit operands for the tensor cores.

Swizzled rows of 16-byte chunks, filled asynchronously where memory and device allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import attrs
from tvm import tirx
from tvm.tirx import op as tir_op

from tilewright.ir.expr import Expr
from tilewright.ir.ops import Axis
from tilewright_backends.emit.gpu.body import GpuBody, i32
from tilewright_backends.emit.gpu.points import both, count, decompose, in_vectors, point_at
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.tensor import CHUNK, HalfOperand


@attrs.frozen
class HalfTilePlan:
    """A tile of an operand in shared memory.

    Args:
        operand: what it holds.
        extent: outer points.
        step: reduction points.
        padded: reduction points of all tiles; those beyond the extent count as zero.
        packed: buffer that holds the operand as [outer tile][k][outer point], or None.
    """

    operand: HalfOperand
    extent: int
    step: int
    padded: int
    packed: Prim | None

    @property
    def along_k(self) -> bool:
        """Whether rows are outer points and chunks run along the reduction, or the other way round."""
        return self.operand.along_k and self.packed is None

    @property
    def chunked(self) -> bool:
        """Whether every chunk is one aligned piece of memory."""
        return self.packed is not None or self.operand.chunked

    @property
    def chunks(self) -> int:
        """Chunks of a row."""
        return (self.step if self.along_k else self.extent) // CHUNK

    @property
    def elements(self) -> int:
        return self.extent * self.step

    @property
    def row_pitch(self) -> int:
        """Elements from a row of at most 128 bytes to the next; that of eighth neighbours' places, swizzled too."""
        return min(self.chunks, 8) * CHUNK

    def element(self, row: Prim, chunk: Prim) -> Prim:
        """Element number in a stage of a chunk, swizzled so that eight neighbouring rows lie in different banks.

        Rows of 128 bytes, or longer ones in columns of 128 bytes, lie as `wgmma` wants them with its 128-byte swizzle.
        """
        chunks = self.chunks
        if chunks % 8 == 0:
            rows = self.extent if self.along_k else self.step
            key = tir_op.bitwise_and(row, i32(7))
            if chunks > 8:
                column = tir_op.shift_right(chunk, i32(3))
                row, chunk = column * rows + row, tir_op.bitwise_and(chunk, i32(7))
            return (row * 8 + tir_op.bitwise_xor(chunk, key)) * CHUNK
        if chunks % 4 == 0:
            key = tir_op.bitwise_and(tir_op.shift_right(row, i32(1)), i32(3))
        elif chunks % 2 == 0:
            key = tir_op.bitwise_and(tir_op.shift_right(row, i32(2)), i32(1))
        else:
            key = i32(0)
        return (row * chunks + tir_op.bitwise_xor(chunk, key)) * CHUNK


@attrs.frozen
class Fragments:
    """A tile of an operand that is multiplied: how it lies, in which buffer, from which element on."""

    plan: HalfTilePlan
    buffer: Prim
    start: Expr


class HalfTile:
    """Fills the stages of a tile.

    Args:
        body: the kernel under construction, outside of the loop over tiles.
        plan: the tile.
        k: reduce axes.
        base: first outer point.
        tile: number of the outer tile.
        batch: values of the batch axes.
        stages: number of tiles in flight.
        buffer: where they lie, by default in a buffer of their own.
        pitch: elements from one stage to the next, by default those of a tile.
        thread: the thread's number, by default that of the body.
    """

    def __init__(
        self,
        body: GpuBody,
        spec: FlatSpec,
        plan: HalfTilePlan,
        k: tuple[Axis, ...],
        base: Expr,
        tile: Expr,
        batch: Mapping[str, Expr],
        stages: int,
        buffer: Prim | None = None,
        pitch: int = 0,
        thread: Expr | None = None,
    ) -> None:
        self.body, self.spec, self.plan, self.k, self.tile = body, spec, plan, k, tile
        self.thread = body.thread if thread is None else thread
        self.dtype = plan.operand.dtype
        self.pitch = pitch or plan.elements
        if buffer is None:
            buffer = body.shared(types.storage(self.dtype), stages * self.pitch, "tile", align=1024)
        self.buffer = buffer
        total = plan.elements // CHUNK
        self.loads = -(-total // body.threads)
        self._partial = total % body.threads != 0
        self._batch = dict(batch)
        storage = types.storage(self.dtype)
        ahead = plan.chunked and body.asynchronous
        self._registers = None if ahead else body.registers(storage, self.loads * CHUNK, "ahead")
        self._places = [self._place(load, base) for load in range(self.loads)]

    def _place(self, load: int, base: Expr) -> tuple[Expr, Expr, Expr, Prim]:
        """(row, first element in the row, outer point, element in the stage) of a thread's load."""
        body, plan = self.body, self.plan
        number = self.thread + load * body.threads
        row = body.hold(number // plan.chunks, "row")
        chunk = body.hold(number % plan.chunks, "chunk")
        outer = body.hold(base + (row if plan.along_k else chunk * CHUNK), "outer")
        return row, chunk, outer, body.bind(plan.element(body.index(row), body.index(chunk)), "slot")

    def start(self, trip: Expr, stage: Expr, beyond: bool = False) -> None:
        """Starts to fill a stage with tile `trip`: asynchronous copies, or loads into registers.

        Copies are free of branches, so that they may stand among products that are under way.

        Args:
            beyond: whether `trip` may lie beyond the last tile, which is then filled with zeros.
        """
        for load in range(self.loads):
            if self._registers is None:
                self._copy(load, trip, stage, beyond)
            else:
                with self._mine(load):
                    if self.plan.chunked:
                        self._load_chunk(load, trip, beyond)
                    else:
                        self._load(load, trip, beyond)

    def finish(self, stage: Expr) -> None:
        """Stores what `start` loaded into registers."""
        if self._registers is None:
            return
        body = self.body
        near = body.view(self._registers, "uint32x4", self.loads)
        far = body.view(self.buffer, "uint32x4", int(self.buffer.shape[0]) // CHUNK)
        for load in range(self.loads):
            with self._mine(load):
                place = body.index(stage * self.pitch) + self._places[load][3]
                body.store(far, tir_op.shift_right(place, i32(3)), near[i32(load)])

    def fragments(self, stage: Expr) -> Fragments:
        """The tile of a stage as what is multiplied."""
        return Fragments(self.plan, self.buffer, self.body.hold(stage * self.pitch, "start"))

    def _mine(self, load: int) -> AbstractContextManager[None]:
        if not self._partial:
            return nullcontext()
        total = self.plan.elements // CHUNK
        return self.body.when(self.body.index(self.thread + load * self.body.threads < total))

    def _where(self, load: int, trip: Expr, lane: int = 0) -> tuple[Expr, Expr]:
        """Outer point and reduction point of an element of a thread's chunk."""
        row, chunk, outer, _ = self._places[load]
        first = trip * self.plan.step
        if self.plan.along_k:
            return outer, first + chunk * CHUNK + lane
        return outer + lane, first + row

    def _inside(self, outer: Expr, k: Expr, beyond: bool) -> Prim | None:
        """Whether a point lies in the operand; None when it always does."""
        body, plan = self.body, self.plan
        total_outer, total_k = count(plan.operand.outer), count(self.k)
        conditions = []
        if total_outer % plan.extent:
            conditions.append(body.index(outer < total_outer))
        if total_k != plan.padded or beyond:
            conditions.append(body.index(k < total_k))
        if not conditions:
            return None
        return conditions[0] if len(conditions) == 1 else tirx.And(*conditions)

    def _chunk(self, load: int, trip: Expr, beyond: bool) -> tuple[Prim, Prim, Prim | None]:
        """The buffer that has a thread's chunk, its first element there, and whether it is read (None: always)."""
        body, plan = self.body, self.plan
        inside: Prim | None
        row, chunk, _, _ = self._places[load]
        if plan.packed is not None:
            address = (self.tile * plan.padded + trip * plan.step + row) * plan.extent + chunk * CHUNK
            inside = body.index(trip * plan.step + row < plan.padded) if beyond else None
            buffer, place = plan.packed, body.index(body.simplify(address))
        else:
            outer, k = (body.hold(x, "at") for x in self._where(load, trip))
            inside = self._inside(outer, k, beyond)
            access, point = self.spec.reads[plan.operand.slot], point_at(body, self.spec, self._at(outer, k))
            buffer, place = body.params[access.value.name], point.index(access.address)
            if access.guard is not None:
                inside = both(inside, point.index(access.guard))
        if inside is not None:
            inside = body.bind(inside, "inside")
            place = tirx.Select(inside, place, types.literal(0, types.element(place)))
        return buffer, place, inside

    def _copy(self, load: int, trip: Expr, stage: Expr, beyond: bool) -> None:
        body = self.body
        buffer, place, inside = self._chunk(load, trip, beyond)
        to = self.buffer[body.index(stage * self.pitch) + self._places[load][3]]
        bytes_ = i32(16) if inside is None else tirx.Select(inside, i32(16), i32(0))
        mine = None
        if self._partial:
            mine = body.index(self.thread + load * body.threads < self.plan.elements // CHUNK)
        body.copy_ahead(tir_op.address_of(to), tir_op.address_of(buffer[place]), bytes_, mine)

    def _load_chunk(self, load: int, trip: Expr, beyond: bool) -> None:
        """A chunk into registers; where there is nothing to read, the first one is read and zeros are taken."""
        body = self.body
        assert self._registers is not None
        buffer, place, inside = self._chunk(load, trip, beyond)
        near = body.view(self._registers, "uint32", self.loads * (CHUNK // 2))
        words = body.registers("uint32", CHUNK // 2, "chunk")
        wide = body.view(words, "uint32x4", 1)
        body.store(wide, i32(0), body.view(buffer, "uint32x4", 1)[in_vectors(place, CHUNK)])
        for number in range(CHUNK // 2):
            word = words[i32(number)]
            if inside is not None:
                word = tirx.Select(inside, word, types.literal(0, "uint32"))
            body.store(near, i32(load * (CHUNK // 2) + number), word)

    def _load(self, load: int, trip: Expr, beyond: bool) -> None:
        body = self.body
        for lane in range(CHUNK):
            outer, k = (body.hold(x, "at") for x in self._where(load, trip, lane))
            inside = self._inside(outer, k, beyond)
            place = i32(load * CHUNK + lane)
            if self.plan.operand.slot >= 0:
                body.store(self._registers, place, self._read(outer, k, inside))
                continue
            with body.branches(inside) as otherwise:
                point = point_at(body, self.spec, self._at(outer, k))
                body.store(self._registers, place, types.to_storage(point.value(self.plan.operand.value), self.dtype))
                if inside is not None:
                    otherwise()
                    body.store(self._registers, place, self._literal(0))

    def _read(self, outer: Expr, k: Expr, inside: Prim | None) -> Prim:
        """The stored element of a plain operand.

        Without branches, so that all loads of a thread are under way together: where there is nothing to read, the
        first element is read and not taken.
        """
        body = self.body
        access, point = self.spec.reads[self.plan.operand.slot], point_at(body, self.spec, self._at(outer, k))
        place = point.index(access.address)
        guard = None if access.guard is None else body.bind(point.index(access.guard), "there")
        inside = None if inside is None else body.bind(inside, "inside")
        for condition in (guard, inside):
            if condition is not None:
                place = tirx.Select(condition, place, types.literal(0, types.element(place)))
        found = body.bind(body.params[access.value.name][place], "found")
        if guard is not None:
            found = tirx.Select(guard, found, self._literal(0 if access.fill is None else access.fill.value))
        return found if inside is None else tirx.Select(inside, found, self._literal(0))

    def _literal(self, value: bool | int | float) -> Prim:
        return types.to_storage(types.literal(value, "float32"), self.dtype)

    def _at(self, outer: Expr, k: Expr) -> dict[str, Expr]:
        """The values of all axes at a point."""
        outers = decompose(outer, self.plan.operand.outer, self.body)
        return {**self._batch, **outers, **decompose(k, self.k, self.body)}
