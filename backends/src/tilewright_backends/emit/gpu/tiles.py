"""Moving the tile of a contraction's operand from memory into registers and from there into shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import attrs
from tvm import tirx

from tilewright.ir.expr import Expr, Extent, const
from tilewright.ir.ops import Axis
from tilewright_backends.emit.gpu.body import GpuBody, i32
from tilewright_backends.emit.gpu.points import (
    contiguous,
    decompose,
    in_vectors,
    load_words,
    point_at,
    points_in,
    whole,
)
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.contraction import Operand, plain_slot
from tilewright_backends.recipes.gpu.roles import stride


@attrs.frozen
class TilePlan:
    """How the threads of a block share an `extent` × `step` tile of an operand (outer × reduce).

    Args:
        operand: the operand.
        extent: outer points of the tile.
        step: reduction points of the tile.
        padded: reduction points of all tiles; those beyond the extent count as zero.
        lanes: elements per load, along the reduction if `along_k`, otherwise along the outer axis.
        along_k: neighbouring threads move along the reduction first.
        packed: buffer that holds the operand as [outer tile][k][outer point], zero where it is padded, or None.
    """

    operand: Operand
    extent: int
    step: int
    padded: Extent
    lanes: int
    along_k: bool
    packed: Prim | None = None

    def loads(self, threads: int) -> int:
        """Loads per thread and tile."""
        return -(-self.extent * self.step // (threads * self.lanes))


def plan_tile(
    spec: FlatSpec,
    operand: Operand,
    k: tuple[Axis, ...],
    extent: int,
    step: int,
    padded: Extent,
    threads: int,
    packed: Prim | None,
) -> TilePlan:
    """Chooses direction and width of the loads from the operand's layout."""
    if packed is not None:
        lanes = next(v for v in (4, 2, 1) if (extent % v == 0 and extent * step % (threads * v) == 0) or v == 1)
        return TilePlan(operand, extent, step, padded, lanes, False, packed)
    slot = plain_slot(operand.value)
    along_k = False
    lanes = 1
    if slot is not None:
        access = spec.reads[slot]
        near_k = stride(spec, slot, k[-1] if k else None) == 1
        near_outer = stride(spec, slot, operand.outer[-1] if operand.outer else None) == 1
        along_k = near_k and not near_outer
        axis = k[-1] if along_k else operand.outer[-1] if operand.outer else None
        reach = step if along_k else extent
        for wide in (4, 2):
            if axis is None or not whole(axis.extent, wide) or reach % wide or extent * step % (threads * wide):
                continue
            if contiguous(spec, access, axis, wide):
                lanes = wide
                break
    return TilePlan(operand, extent, step, padded, lanes, along_k)


@attrs.frozen
class Team:
    """The threads that work on a tile together: how many, and a thread's number among them."""

    threads: int
    thread: Expr


class TileLoader:
    """Loads successive tiles of one operand.

    Args:
        body: the kernel under construction, outside of the loop over tiles.
        spec: its specification.
        team: the threads that load.
        plan: how they share a tile.
        k: reduce axes.
        base: first outer point of the tile.
        batch: values of the batch axes.
        tile: number of the outer tile, for packed operands.
        state: dtype of the products; tiles hold it.
    """

    def __init__(
        self,
        body: GpuBody,
        spec: FlatSpec,
        team: Team,
        plan: TilePlan,
        k: tuple[Axis, ...],
        base: Expr,
        batch: Mapping[str, Expr],
        tile: Expr,
        state: str,
    ) -> None:
        self.body, self.spec, self.plan, self.k, self.tile = body, spec, plan, k, tile
        self.team = team
        self.cell = types.carrier(state)
        self.registers = body.registers(self.cell, plan.loads(self.team.threads) * plan.lanes, "ahead")
        self._batch = dict(batch)
        self._base = base
        self._fixed = self._fixed_outer()

    def _fixed_outer(self) -> list[tuple[Expr, dict[str, Expr], Prim]] | None:
        """(point in the tile, axis values, inside) of the outer points that a thread meets, when they never change."""
        plan, body = self.plan, self.body
        if plan.packed is not None or plan.along_k:
            return None
        across = plan.extent // plan.lanes
        if across >= self.team.threads:
            if across % self.team.threads:
                return None
            steps = across // self.team.threads
            firsts = [body.hold((self.team.thread + i * self.team.threads) * plan.lanes, "x") for i in range(steps)]
        elif self.team.threads % across == 0:
            firsts = [body.hold(self.team.thread % across * plan.lanes, "x")]
        else:
            return None
        return [self._place(x) for x in firsts]

    def _place(self, x: Expr) -> tuple[Expr, dict[str, Expr], Prim]:
        total = points_in(self.plan.operand.outer)
        at = self.body.hold(self._base + x, "outer")
        inside = None
        if not whole(total, self.plan.extent):
            inside = self.body.bind(self.body.index(at < total), "in_range")
        return x, decompose(at, self.plan.operand.outer, self.body), inside

    def fetch(self, trip: Expr) -> None:
        """Loads tile `trip` into registers."""
        plan, body = self.plan, self.body
        for load in range(plan.loads(self.team.threads)):
            x, kk = self._where(load)
            guard = None
            if plan.extent * plan.step % (self.team.threads * plan.lanes):
                guard = body.index((self.team.thread + load * self.team.threads) * plan.lanes < plan.extent * plan.step)
            with body.when(guard) if guard is not None else nullcontext():
                self._fetch_one(load, x, kk, trip)

    def _where(self, load: int) -> tuple[Expr, Expr]:
        """Outer point and reduction point in the tile of a thread's load."""
        plan, body = self.plan, self.body
        number = self.team.thread + load * self.team.threads
        if plan.along_k:
            across = plan.step // plan.lanes
            return body.simplify(number // across), body.simplify(number % across * plan.lanes)
        across = plan.extent // plan.lanes
        if across >= self.team.threads and across % self.team.threads == 0:
            steps = across // self.team.threads
            first = (self.team.thread + load % steps * self.team.threads) * plan.lanes
            return body.simplify(first), body.simplify(const(load // steps))
        return body.simplify(number % across * plan.lanes), body.simplify(number // across)

    def _fetch_one(self, load: int, x: Expr, kk: Expr, trip: Expr) -> None:
        plan, body, spec = self.plan, self.body, self.spec
        total = points_in(self.k)
        if plan.packed is not None:
            address = body.index(body.simplify((self.tile * plan.padded + trip * plan.step + kk) * plan.extent + x))
            dtype = self._packed_dtype()
            self._keep(load, load_words(body, dtype, plan.lanes, plan.packed, address), dtype)
            return
        if self._fixed is None:
            _, outer, inside = self._place(x)
        else:
            _, outer, inside = self._fixed[load % len(self._fixed)]
        depth = body.hold(trip * plan.step + kk, "k")
        if total != plan.padded:
            good = body.index(depth < total)
            inside = good if inside is None else tirx.And(inside, good)
        at = {**self._batch, **outer, **decompose(depth, self.k, body)}
        if plan.lanes > 1:
            self._fetch_vector(load, at, inside)
            return
        with body.branches(inside) as otherwise:
            value = point_at(body, spec, at).value(plan.operand.value)
            body.store(self.registers, i32(load), types.convert(value, self.cell))
            if inside is not None:
                otherwise()
                body.store(self.registers, i32(load), types.literal(0, self.cell))

    def _fetch_vector(self, load: int, at: dict[str, Expr], inside: Prim) -> None:
        plan, body, spec = self.plan, self.body, self.spec
        slot = plain_slot(plan.operand.value)
        assert slot is not None
        access = spec.reads[slot]
        with body.branches(inside) as otherwise:
            address = point_at(body, spec, at).index(access.address)
            wide = load_words(body, access.value.dtype, plan.lanes, body.params[access.value.name], address)
            self._keep(load, wide, access.value.dtype)
            if inside is not None:
                otherwise()
                for lane in range(plan.lanes):
                    body.store(self.registers, i32(load * plan.lanes + lane), types.literal(0, self.cell))

    def _packed_dtype(self) -> str:
        slot = plain_slot(self.plan.operand.value)
        assert slot is not None
        return self.spec.reads[slot].value.dtype

    def _keep(self, load: int, wide: Prim, dtype: str) -> None:
        for lane in range(self.plan.lanes):
            value = types.convert(types.from_storage(wide[lane], dtype), self.cell)
            self.body.store(self.registers, i32(load * self.plan.lanes + lane), value)

    def put(self, tile: Prim, row: int, offset: Expr) -> None:
        """Stores the registers into a shared tile [k][outer point] with rows of `row` elements, from `offset`."""
        plan, body = self.plan, self.body
        lanes = plan.lanes
        wide = not plan.along_k and lanes > 1 and row % lanes == 0
        near: Prim = body.vectors(self.registers, lanes) if wide else None
        far: Prim = body.vectors(tile, lanes) if wide else None
        for load in range(plan.loads(self.team.threads)):
            x, kk = self._where(load)
            guard = None
            if plan.extent * plan.step % (self.team.threads * lanes):
                guard = body.index((self.team.thread + load * self.team.threads) * lanes < plan.extent * plan.step)
            with body.when(guard) if guard is not None else nullcontext():
                if wide:
                    place = body.index(body.simplify(offset + kk * row + x))
                    body.store(far, in_vectors(place, lanes), near[i32(load)])
                    continue
                for lane in range(lanes):
                    at = offset + (kk + lane) * row + x if plan.along_k else offset + kk * row + x + lane
                    body.store(tile, body.index(body.simplify(at)), self.registers[i32(load * lanes + lane)])
