"""Emits `cpu.rows`: strips of rows, each through all stages, in passes over its columns.

A pass runs its stages one after the other on a few neighbouring vectors; what one stage hands to the next of the same
pass stays in registers, what a later pass reads goes into a buffer on the stack, and numbers per row stay in registers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, const, minimum
from tilewright.ir.ops import Combiner, Value
from tilewright.ir.program import Kernel
from tilewright.views.staged import StagedSpec
from tilewright_backends.emit.cpu.function import CpuFunction, Emitted, tail_mask
from tilewright_backends.lower import types
from tilewright_backends.lower.code import span
from tilewright_backends.lower.flat import FlatStore, split_number
from tilewright_backends.lower.point import Point, combine
from tilewright_backends.lower.semantics import Semantics
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.cpu.rows import Pass, RowLoops, loops_of
from tilewright_backends.recipes.rows import FlatStage, flat_rows, points


def emit(kernel: Kernel, staged: StagedSpec, semantics: Semantics) -> Emitted:
    """The kernel's function."""
    rows = flat_rows(staged)
    if rows is None:
        raise InternalError(f"cpu.rows does not take kernel {kernel.name}.")
    function = CpuFunction(kernel, semantics)
    _Emitter(function, loops_of(rows, kernel.choice["lanes"]), kernel.choice.as_dict()).run()
    return function.finish()


class _Emitter:
    def __init__(self, function: CpuFunction, loops: RowLoops, params: Mapping[str, int]) -> None:
        self.function, self.code, self.loops, self.rows = function, function.code, loops, loops.rows
        self.lanes = loops.lanes
        self.unroll = params["unroll"]
        self.block = params["rows.block"] // loops.strip
        self.buffers = {
            v: self.code.local("kept", types.storage(v.dtype), max(loops.places, 1)) for v in loops.buffered
        }
        self.at: dict[str, Expr] = {}
        self.mask: Prim = None
        self.numbers: dict[Value, Prim] = {}

    def run(self) -> None:
        """Task number -> strips."""
        code, loops = self.code, self.loops
        first = self.function.task * self.block
        with code.loop("q", code.simplify(minimum(const(loops.strips) - first, const(self.block)))) as q:
            extents = [points(x) for x in self.rows.rows]
            beside = bool(loops.lane_axis) and not self.rows.along
            if not beside:
                digits = split_number(first + q, extents)
                self.at = {x.name: code.once(d) for x, d in zip(self.rows.rows, digits, strict=True)}
                self._strip()
                return
            last = extents.pop()
            *digits, number = split_number(first + q, [*extents, -(-last // self.lanes)])
            self.at = {x.name: code.once(d) for x, d in zip(self.rows.rows, digits, strict=False)}
            whole = last // self.lanes
            lane = self.function.lane(self.lanes)
            if whole:
                with code.when(code.index(code.simplify(number < whole))):
                    self.at[loops.lane_axis] = code.simplify(number * self.lanes + lane)
                    self._strip()
            if last % self.lanes:
                with code.when(code.index(code.simplify(const(whole) <= number))):
                    self.at[loops.lane_axis] = const(whole * self.lanes) + lane
                    self.mask = tail_mask(whole * self.lanes, last, self.lanes)
                    self._strip()

    def _strip(self) -> None:
        """Pass after pass."""
        self.numbers = {}
        for stages in self.loops.passes:
            if stages[0].kind == "row":
                (stage,) = stages
                point = self._row_point(stage)
                self._finish(stage, point, [point.value(x) for x in stage.spec.body])
            else:
                self._pass(stages)

    def _pass(self, stages: Pass) -> None:
        """The stages over all columns, then what the reductions give."""
        sums = {i: self._states(x) for i, x in enumerate(stages) if x.kind == "reduce"}
        columns, width = self.rows.columns, self.loops.width
        inner = points(*columns[-1:])
        with self.code.loops("c", {x.name: x.extent for x in columns[:-1]}) as at:
            line: Expr = const(0)
            for axis in columns[:-1]:
                line = line * points(axis) + at[axis.name]
            line = line * self.loops.line
            group = self.unroll * width
            whole = inner // group * group
            if whole:
                with self.code.loop("g", whole // group) as g:
                    self._step(stages, sums, at, line, [g * group + u * width for u in range(self.unroll)], None)
            rest = (inner - whole) // width
            if rest:
                with self.code.loop("v", rest) as v:
                    self._step(stages, sums, at, line, [v * width + whole], None)
            if inner % width:
                last = inner // width * width
                self._step(stages, sums, at, line, [const(last)], tail_mask(last, inner, width))
        for i, cells in sums.items():
            self._finish(stages[i], self._row_point(stages[i]), self._joined(stages[i].spec.combiner, cells))

    def _step(
        self,
        stages: Pass,
        sums: Mapping[int, list[list[Prim]]],
        at: Mapping[str, Expr],
        line: Expr,
        firsts: Sequence[Expr],
        tail: Prim,
    ) -> None:
        """All stages on the vectors that start at columns `firsts` of the innermost axis.

        Args:
            line: place of the first of these columns in a buffer.
            tail: which lanes are columns (None: all).
        """
        made: list[dict[Value, Prim]] = [{} for _ in firsts]
        mask = tail if self.rows.along else self.mask
        for number, stage in enumerate(stages):
            for u, first in enumerate(firsts):
                place = self.code.index(self.code.simplify(line + first * self.loops.strip), "int32")
                here = {**self.at, **at}
                if self.rows.columns:
                    here[self.rows.columns[-1].name] = self._column(first)
                loaded = {slot: self._kept(v, made[u], place) for slot, v in stage.inner.items()}
                point = self.function.point(stage.spec, here, self.lanes, mask, loaded=loaded)
                new = [point.value(x) for x in stage.spec.body]
                if stage.kind == "reduce":
                    self._merge(stage, sums[number][u], new, tail)
                    continue
                point.give({f"s{i}": x for i, x in enumerate(new)})
                for store in stage.spec.stores:
                    made[u][store.value] = self._stored(point, store, place)

    def _column(self, first: Expr) -> Expr:
        if self.rows.along and self.lanes > 1:
            return self.code.simplify(first + self.function.lane(self.lanes))
        return self.code.simplify(first)

    def _kept(self, value: Value, made: Mapping[Value, Prim], place: Prim) -> Prim:
        """What an earlier stage has made of this point or of its row."""
        if value in self.numbers:
            return self.numbers[value]
        if value in made:
            return made[value]
        loaded = tirx.BufferLoad(self.buffers[value], [self._span(place)])
        return self.code.bind(types.from_storage(loaded, value.dtype))

    def _span(self, place: Prim) -> Prim:
        return tirx.Ramp(place, tirx.const(1, "int32"), self.lanes) if self.lanes > 1 else place

    def _stored(self, point: Point, store: FlatStore, place: Prim) -> Prim:
        """The value of a store, rounded; written to memory, into a buffer, or neither."""
        value = store.value
        stored = self.code.bind(types.to_storage(point.value(store.expr), value.dtype), "stored")
        carried = self.code.bind(types.from_storage(stored, value.dtype), "v")
        if value in self.buffers:
            vector = types.broadcast(stored, self.lanes)
            self.code.emit(tirx.BufferStore(self.buffers[value], vector, [self._span(place)]))
        if value in self.rows.outputs:
            point.store(store, carried)
        return carried

    def _row_point(self, stage: FlatStage) -> Point:
        """The point of a row, or of a vector of rows."""
        loaded = {slot: self.numbers[v] for slot, v in stage.inner.items() if v in self.numbers}
        lanes = 1 if self.rows.along else self.lanes
        return self.function.point(stage.spec, self.at, lanes, self.mask, loaded=loaded)

    def _finish(self, stage: FlatStage, point: Point, states: Sequence[Prim]) -> None:
        """The numbers that a row has."""
        point.give({f"s{i}": x for i, x in enumerate(states)})
        for store in stage.spec.stores:
            self.numbers[store.value] = self._stored(point, store, None)

    def _states(self, stage: FlatStage) -> list[list[Prim]]:
        """Cells of a reduction's states for each of the vectors side by side, at their start."""
        combiner = stage.spec.combiner
        assert combiner is not None
        count = self.unroll if self.unroll * self.loops.width <= points(*self.rows.columns[-1:]) else 1
        cells = [[self.code.local("acc", _cell(d), self.lanes) for d in combiner.dtypes] for _ in range(count)]
        for row in cells:
            self._write(row, [types.literal(x.value, types.carrier(x.dtype), self.lanes) for x in combiner.identity])
        return cells

    def _read(self, cells: Sequence[Prim], combiner: Combiner) -> list[Prim]:
        index = span(0, self.lanes)
        loaded = [self.code.bind(tirx.BufferLoad(x, [index])) for x in cells]
        return [_carried(x, d) for x, d in zip(loaded, combiner.dtypes, strict=True)]

    def _write(self, cells: Sequence[Prim], states: Sequence[Prim]) -> None:
        for cell, state in zip(cells, states, strict=True):
            value = types.broadcast(types.convert(state, str(cell.dtype)), self.lanes)
            self.code.emit(tirx.BufferStore(cell, value, [span(0, self.lanes)]))

    def _merge(self, stage: FlatStage, cells: Sequence[Prim], new: list[Prim], tail: Prim) -> None:
        """One more vector of points in a reduction; lanes that are no columns leave it as it is."""
        combiner = stage.spec.combiner
        assert combiner is not None
        old = self._read(cells, combiner)
        merged = combine(self.code, self.function.semantics, combiner, old, new)
        if tail is not None:
            merged = [tirx.Select(tail, types.broadcast(x, self.lanes), y) for x, y in zip(merged, old, strict=True)]
        self._write(cells, merged)

    def _joined(self, combiner: Combiner | None, cells: Sequence[Sequence[Prim]]) -> list[Prim]:
        """The states of all vectors side by side, then of all lanes along the columns: always in the same order."""
        assert combiner is not None
        semantics = self.function.semantics
        states = self._read(cells[0], combiner)
        for other in cells[1:]:
            states = combine(self.code, semantics, combiner, states, self._read(other, combiner))
        lanes = self.lanes if self.rows.along else 1
        while lanes > 1:
            lanes //= 2
            halves = [[_lanes(x, half * lanes, lanes) for x in states] for half in (0, 1)]
            left, right = ([self.code.bind(x) for x in half] for half in halves)
            states = combine(self.code, semantics, combiner, left, right)
        return states


def _cell(dtype: str) -> str:
    """TIR dtype of a state on the stack."""
    return "int8" if dtype == "bool" else types.carrier(dtype)


def _carried(value: Prim, dtype: str) -> Prim:
    return types.from_storage(value, dtype) if dtype == "bool" else value


def _lanes(vector: Prim, first: int, count: int) -> Prim:
    """Neighbouring lanes of a vector."""
    if types.element(vector) == "bool":
        return types.from_storage(_lanes(types.convert(vector, "int8"), first, count), "bool")
    return tirx.Shuffle([vector], [tirx.const(first + i, "int32") for i in range(count)])
