"""Emits stages: one after the other over the box that a tile of the results needs, in shared memory between them.

A thread takes points of a stage's box, one at a time; of a product `SIDE` rows by `SIDE` columns, so that what it loads
serves several sums. Products of 16-bit floats run on tensor cores where there are some. Points of a box that lie
outside of the value are neither computed nor read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol

import attrs
from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.expr import Const, Expr, Var, all_of, as_expr, const, eq, minimum
from tilewright.ir.module import Symbol
from tilewright.ir.ops import Access, Axis, Value, Write
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright.views.staged import StagedSpec
from tilewright.views.tiles import Box, TileSpec, TileStage, tiles_of
from tilewright_backends.emit.gpu.body import GpuBody
from tilewright_backends.emit.gpu.points import both, size, varies
from tilewright_backends.emit.gpu.reduce import nest
from tilewright_backends.emit.gpu.stage_teams import Place, TeamStage
from tilewright_backends.emit.gpu.states import States, cell
from tilewright_backends.emit.gpu.teams import Teams
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatSpec, flatten
from tilewright_backends.lower.point import Point, combine
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.stage_teams import lanes_along, lanes_of
from tilewright_backends.recipes.gpu.stages import SIDE, UNROLLED, Sides, sides_of, stored_shape, tensor_factors

_AHEAD = 16
"""Registers for what stages of few points read of memory, loaded before the first stage."""


class Product(Protocol):
    """What emits a stage that is a product of 16-bit floats on tensor cores."""

    def __call__(
        self,
        body: Any,
        spec: FlatSpec,
        slots: tuple[int, int],
        totals: tuple[int, int],
        row: Callable[[Expr], Place],
        column: Callable[[Expr], Place],
        read: Callable[[int, dict[str, Expr], Prim | None], Prim],
        store: Callable[[dict[str, Expr], Prim | None, Prim], None],
    ) -> None:
        """Emits one.

        Args:
            slots: the reads that are the factors of rows and columns.
            totals: rows and columns.
            row, column: the place of a number.
            read: the carried value of a read at a point, zero where a condition does not hold.
            store: stores what belongs to a sum at a point, where a condition holds.
        """


def emit(body: GpuBody, kernel: Kernel, staged: StagedSpec, product: Product | None = None) -> None:
    """The code of one task of a kernel.

    Args:
        product: emits products of 16-bit floats; None where there are no tensor cores for them.
    """
    params = kernel.choice.as_dict()
    sizes = {name.removeprefix("tile."): x for name, x in params.items() if name.startswith("tile.")}
    tiles = tiles_of(staged, sizes)
    if tiles is None:
        raise InternalError(f"stages does not take kernel {kernel.name}.")
    _Emitter(body, tiles, sizes, product).run()


@attrs.frozen
class _Place:
    """A point along fused axes: their values, and whether they lie within the stage's domain (None: always)."""

    at: dict[str, Expr]
    inside: Prim | None


class _Emitter:
    def __init__(self, body: GpuBody, tiles: TileSpec, sizes: Mapping[str, int], product: Product | None) -> None:
        self.body, self.tiles, self.product = body, tiles, product
        self.buffers = dict(body.params)
        for value, box in tiles.boxes.items():
            count = math.prod(map(_literal, stored_shape(value, box)))
            self.buffers[_near(value)] = body.shared(types.storage(value.dtype), max(count, 1), "kept")
        self.origins = self._origins(sizes)
        # By number and type of a state; they may be read until the next barrier.
        self.tables: dict[tuple[int, str], Prim] = {}
        self.merging = False

    def _origins(self, sizes: Mapping[str, int]) -> dict[str, Expr]:
        """The first point of the task's tile along each axis."""
        found: dict[str, Expr] = {}
        rest = self.body.task
        for axis in reversed(self.tiles.axes):
            count = -(-size(axis) // sizes[axis.name])
            found[axis.name] = self.body.hold(rest % count * sizes[axis.name], "origin")
            rest = self.body.hold(rest // count, "rest")
        return found

    def run(self) -> None:
        """All stages, with a barrier before those that read what was written since the last one."""
        fresh: set[Value] = set()
        left = _AHEAD
        teams = [self._teams(stage) for stage in self.tiles.stages]
        for one in teams[1:]:
            left -= one.load_ahead(left) if one is not None else 0
        for stage, team in zip(self.tiles.stages, teams, strict=True):
            if fresh & set(stage.spec.inputs) or self.merging:
                self.body.sync()
                fresh, self.merging = set(), False
            if team is not None:
                team.run(self._tables(team.combiner.dtypes))
                self.merging = True
            else:
                self._stage(stage)
            fresh |= set(stage.spec.outputs)

    def _stage(self, stage: TileStage) -> None:
        body = self.body
        spec, starts = self._flat(stage)
        sides = sides_of(stage.spec)
        factors = None if self.product is None else tensor_factors(stage.spec)
        if factors is not None:
            self._product(stage, spec, sides, factors, starts)
            return
        wide = bool(sides.columns)
        rows, columns = self._points(stage, sides.rows), self._points(stage, sides.columns)
        height, width = (min(SIDE, x) if wide else 1 for x in (rows, columns))
        if stage.spec.combiner is None and spec.body_reads <= SIDE:
            height = min(SIDE, max(-(-rows // body.threads), 1))  # so that their loads overlap
        down, across = -(-rows // height), -(-columns // width)
        last = stage.spec.spatial[-1] if stage.spec.spatial else None
        along = last in sides.columns
        total = down * across
        with body.loop("part", -(-total // body.threads)) as part:
            number = body.hold(part * body.threads + body.thread, "number")
            there = body.below(number, total)
            with body.when(there) if there is not None else nullcontext():
                if along:
                    first, second = body.hold(number // across, "row"), body.hold(number % across, "column")
                else:
                    first, second = body.hold(number % down, "row"), body.hold(number // down, "column")
                lines = [self._place(stage, sides.rows, first, i * down, rows, starts) for i in range(height)]
                stands = [self._place(stage, sides.columns, second, i * across, columns, starts) for i in range(width)]
                self._compute(spec, sides.columns, lines, stands)

    def _product(
        self, stage: TileStage, spec: FlatSpec, sides: Sides, factors: tuple[int, int], starts: Mapping[str, Expr]
    ) -> None:
        """A stage on tensor cores."""
        totals = self._points(stage, sides.rows), self._points(stage, sides.columns)

        assert self.product is not None

        def place(axes: Sequence[Axis], total: int, number: Expr) -> Place:
            found = self._place(stage, axes, number, 0, total, starts)
            return found.at, found.inside

        def store(at: dict[str, Expr], inside: Prim | None, value: Prim) -> None:
            with self.body.when(inside) if inside is not None else nullcontext():
                point = self._point(spec, at, {})
                point.give({"s0": value})
                for one in spec.stores:
                    point.store(one)

        self.product(
            self.body,
            spec,
            factors,
            totals,
            partial(place, sides.rows, totals[0]),
            partial(place, sides.columns, totals[1]),
            partial(self._load, spec),
            store,
        )

    def _teams(self, stage: TileStage) -> TeamStage | None:
        """A stage of few points, of which threads share the reductions; None for any other."""
        total = self._points(stage, stage.spec.spatial)
        lanes = lanes_of(stage.spec, total, self.body.threads)
        if lanes < 2 or (self.product is not None and tensor_factors(stage.spec) is not None):
            return None
        spec, starts = self._flat(stage)
        teams = Teams(total, lanes, lanes_along(spec))

        def place(number: Expr) -> Place:
            found = self._place(stage, stage.spec.spatial, number, 0, total, starts)
            return found.at, found.inside

        return TeamStage(self.body, spec, teams, place, self._point)

    def _tables(self, types_: Sequence[str]) -> list[Prim]:
        """Shared memory for a state of each thread, which all stages use one after the other."""
        found = []
        for key in ((i, cell(d)) for i, d in enumerate(types_)):
            if key not in self.tables:
                self.tables[key] = self.body.shared(key[1], self.body.threads, "partial")
            found.append(self.tables[key])
        return found

    def _points(self, stage: TileStage, axes: Sequence[Axis]) -> int:
        total = 1
        for axis in axes:
            total *= _literal(stage.domain[axis.name].size)
        return total

    def _place(
        self, stage: TileStage, axes: Sequence[Axis], base: Expr, step: int, total: int, starts: Mapping[str, Expr]
    ) -> _Place:
        """Point `base + step` of fused axes of the stage's domain."""
        body = self.body
        number = body.hold(base + step, "point")
        conditions = []
        inside = body.simplify(number < total)
        if inside != const(True, "bool"):
            conditions.append(inside)
            number = body.hold(minimum(number, const(total - 1)), "point")
        at: dict[str, Expr] = {}
        for axis in reversed(axes):
            span = stage.domain[axis.name]
            count = _literal(span.size)
            at[axis.name] = body.hold(starts[axis.name] + number % count, "at")
            number = body.hold(number // count, "rest")
            for good in (as_expr(0) <= at[axis.name], at[axis.name] < axis.extent):
                if (short := body.simplify(good)) != const(True, "bool"):
                    conditions.append(short)
        if not conditions:
            return _Place(at, None)
        return _Place(at, body.bind(functools.reduce(tirx.And, map(body.index, conditions)), "inside"))

    def _compute(
        self, spec: FlatSpec, columns: Sequence[Axis], lines: Sequence[_Place], stands: Sequence[_Place]
    ) -> None:
        """The sums of all pairs of a row and a column, and what is stored of them."""
        body = self.body
        pairs = [(i, j) for i in range(len(lines)) for j in range(len(stands))]
        alone = len(pairs) == 1
        inside = both(lines[0].inside, stands[0].inside) if alone else None
        with body.when(inside) if inside is not None else nullcontext():
            states: dict[tuple[int, int], States] = {}
            ahead: dict[tuple[int, int], dict[int, Prim]] = {}
            if spec.combiner is not None:
                for pair in pairs:
                    states[pair] = States(body, spec.combiner.dtypes)
                    states[pair].write([types.literal(x.value, types.carrier(x.dtype)) for x in spec.combiner.identity])

                def step(reduced: dict[str, Expr]) -> None:
                    loaded = self._loaded(spec, columns, lines, stands, reduced, guarded=not alone)
                    for i, j in pairs:
                        point = self._point(spec, {**lines[i].at, **stands[j].at, **reduced}, loaded[i, j])
                        new = [point.value(x) for x in spec.body]
                        assert spec.combiner is not None
                        merged = combine(body, body.semantics, spec.combiner, states[i, j].read(), new)
                        states[i, j].write(merged)

                total = 1
                for axis in spec.reduce:
                    total *= size(axis)
                nest(body, spec, {}, step, total <= UNROLLED)
            else:
                ahead = {} if alone else self._loaded(spec, columns, lines, stands, {}, guarded=True)
            for i, j in pairs:
                where = None if alone else both(lines[i].inside, stands[j].inside)
                with body.when(where) if where is not None else nullcontext():
                    point = self._point(spec, {**lines[i].at, **stands[j].at}, ahead.get((i, j), {}))
                    found = states[i, j].read() if states else [point.value(x) for x in spec.body]
                    point.give({f"s{number}": x for number, x in enumerate(found)})
                    for store in spec.stores:
                        point.store(store)

    def _loaded(
        self,
        spec: FlatSpec,
        columns: Sequence[Axis],
        lines: Sequence[_Place],
        stands: Sequence[_Place],
        reduced: dict[str, Expr],
        *,
        guarded: bool,
    ) -> dict[tuple[int, int], dict[int, Prim]]:
        """What the body reads at each pair; what does not vary with the row is loaded once per column, and so on."""
        found: dict[tuple[int, int], dict[int, Prim]] = {
            (i, j): {} for i in range(len(lines)) for j in range(len(stands))
        }
        inner = {x.name for x in columns}
        outer = {x.name for x in spec.spatial} - inner
        for slot in range(spec.body_reads):
            down = any(varies(spec, slot, x) for x in outer)
            across = any(varies(spec, slot, x) for x in inner)
            known: dict[tuple[int, int], Prim] = {}
            for i, j in found:
                key = (i if down else 0, j if across else 0)
                if key not in known:
                    place = {**lines[key[0]].at, **stands[key[1]].at, **reduced}
                    where = both(lines[i].inside if down else None, stands[j].inside if across else None)
                    known[key] = self._load(spec, slot, place, where if guarded else None)
                found[i, j][slot] = known[key]
        return found

    def _load(self, spec: FlatSpec, slot: int, at: dict[str, Expr], inside: Prim | None) -> Prim:
        access = spec.reads[slot]
        value = self._point(spec, at, {}).read(access)
        if inside is not None:
            value = tirx.if_then_else(inside, value, types.literal(0, types.carrier(access.value.dtype)))
        return self.body.bind(value, "v")

    def _point(self, spec: FlatSpec, at: Mapping[str, Expr], loaded: Mapping[int, Prim]) -> Point:
        placed = {**at, **{_origin(name): x for name, x in self.origins.items()}}
        return Point(self.body, spec, self.buffers, placed, self.body.semantics, loaded=loaded)

    def _flat(self, stage: TileStage) -> tuple[FlatSpec, dict[str, Expr]]:
        """The stage over boxes in shared memory, and the first point of its domain along each axis."""
        symbols = tuple(Symbol(_origin(x.name), 0, size(x) - 1) for x in self.tiles.axes)
        origins: dict[str, Expr] = {x.name: Var(_origin(x.name)) for x in self.tiles.axes}
        boxes = self.tiles.boxes

        def read(access: Access) -> Access:
            if access.value not in boxes:
                return access
            value, index = _boxed(access.value, access.index, boxes[access.value], origins)
            return attrs.evolve(access, value=value, index=index)

        def writes(one: Write) -> list[Write]:
            if one.value not in boxes:
                return [one]
            value, index = _boxed(one.value, one.index, boxes[one.value], origins)
            near = attrs.evolve(one, value=value, index=index)
            if one.value not in self.tiles.stored:
                return [near]
            # Of the tasks that make the same box the first one stores it.
            firsts = (eq(origins[x], 0) for x in self.tiles.stored[one.value])
            return [near, attrs.evolve(one, guard=all_of(*firsts))]

        spec: KernelSpec = attrs.evolve(
            stage.spec,
            reads=tuple(map(read, stage.spec.reads)),
            stores=tuple(attrs.evolve(s, write=x) for s in stage.spec.stores for x in writes(s.write)),
            symbols=symbols,
        )
        starts = {name: self.body.hold(x.start(self.origins), "start") for name, x in stage.domain.items()}
        return flatten(spec), starts


def _boxed(
    value: Value, index: Sequence[Expr], box: Box, origins: Mapping[str, Expr]
) -> tuple[Value, tuple[Expr, ...]]:
    """The value as its box, and an index into that."""
    inner = tuple(at - x.start(origins) for at, x in zip(index, box, strict=True))
    return attrs.evolve(value, name=_near(value), shape=stored_shape(value, box)), inner


def _near(value: Value) -> str:
    """What a value's box is called, beside the value in memory."""
    return f"{value.name} near"


def _origin(axis: str) -> str:
    return f"origin_{axis}"


def _literal(expr: Expr) -> int:
    """A size, all of which are literals once tiles are chosen."""
    if not isinstance(expr, Const):
        raise TypeError(f"a box has no literal size: {expr!r}")
    return int(expr.value)
