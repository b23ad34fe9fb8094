"""Emits `rows`: teams of threads that take rows through all stages.

A thread has the same columns in every stage, so what passes from stage to stage stays in its registers; what a
reduction makes is known to all threads of the team.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import attrs
from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, const, loads, minimum, variables
from tilewright.ir.ops import Combiner
from tilewright.ir.program import Kernel
from tilewright.views.staged import StagedSpec
from tilewright_backends.emit.gpu.body import GpuBody, i32
from tilewright_backends.emit.gpu.points import contiguous, decompose, early_reads, load_words, point_at, store_words
from tilewright_backends.emit.gpu.states import States, cell, from_cell, to_cell
from tilewright_backends.emit.gpu.teams import join_warp
from tilewright_backends.lower import types
from tilewright_backends.lower.flat import FlatAccess, FlatSpec
from tilewright_backends.lower.point import Point, combine
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.rows import slices_of
from tilewright_backends.recipes.gpu.slices import OWN, RowSlice, in_slices
from tilewright_backends.recipes.rows import FlatStage, Rows, flat_rows


def emit(body: GpuBody, kernel: Kernel, staged: StagedSpec) -> None:
    """The code of one task of a kernel."""
    rows = flat_rows(staged)
    if rows is None:
        raise InternalError(f"rows does not take kernel {kernel.name}.")
    if kernel.choice["reads"] > 1:
        rows = attrs.evolve(rows, again=())
    if body.sliced:
        rows = _from_slices(rows, slices_of(rows, staged))
    _Emitter(body, rows, kernel.choice["rows.block"], kernel.choice["lanes"], kernel.choice["vector"]).run()


def _from_slices(rows: Rows, found: Sequence[RowSlice]) -> Rows:
    """The same with reads of the task's slices where it has some."""
    (row,), bounds = rows.rows, rows.stages[0].spec.bounds()

    def moved(accesses: Sequence[FlatAccess]) -> tuple[FlatAccess, ...]:
        return tuple(in_slices(x, found, row.name, bounds) for x in accesses)

    stages = tuple(attrs.evolve(x, spec=attrs.evolve(x.spec, reads=moved(x.spec.reads))) for x in rows.stages)
    return attrs.evolve(rows, stages=stages, again=moved(rows.again))


class _Emitter:
    def __init__(self, body: GpuBody, rows: Rows, block: int, lanes: int, vector: int) -> None:
        self.body, self.rows, self.block, self.lanes, self.vector = body, rows, block, lanes, vector
        self.chunks = -(-rows.column_count // (lanes * vector))
        self.exact = self.chunks * lanes * vector == rows.column_count
        elements = self.chunks * vector
        self.cells = {
            v: body.registers(types.storage(v.dtype), elements if kind == "map" else 1, "kept") for v, kind in rows.kept
        }
        self.kinds = dict(rows.kept)
        self.again = {x: body.registers(types.storage(x.value.dtype), elements, "again") for x in rows.again}
        self.filled: set[FlatAccess] = set()

    def run(self) -> None:
        """Task number -> rows; then stage after stage."""
        body, rows = self.body, self.rows
        if rows.along:
            self.lane = body.hold(body.thread % self.lanes, "lane")
            which = body.hold(body.thread // self.lanes, "which")
        else:
            self.lane, which = const(0), body.thread
        self.which = which
        number = body.hold(body.task * self.block + which, "row")
        self.inside = body.below(number, rows.row_count)
        if self.inside is not None:
            number = body.hold(minimum(number, const(rows.row_count - 1)), "row")
        own = which if self.inside is None else body.hold(number - body.task * self.block, "own")
        self.row = {**decompose(number, rows.rows, body), OWN: own}
        early = [{} if x.kind == "map" else early_reads(body, x.spec, self.row, x.inner) for x in rows.stages]
        for stage, loaded in zip(rows.stages, early, strict=True):
            if stage.kind == "map":
                self._map(stage)
            elif stage.kind == "reduce":
                self._finish(stage, self._reduce(stage), loaded)
            else:
                point = point_at(body, stage.spec, self.row, (), {**loaded, **self._inner(stage, None)})
                self._finish(stage, [point.value(x) for x in stage.spec.body], loaded)

    def _columns(self, stage: FlatStage, step: Any) -> None:
        """Runs `step(chunk, points)` for the thread's columns, a vector of neighbours at a time."""
        body = self.body
        # Registers are numbered by the chunk.
        with body.loop("chunk", self.chunks, "unrolled" if self.rows.held else "serial") as chunk:
            first = body.hold((chunk * self.lanes + self.lane) * self.vector, "column")
            there = None if self.exact else body.below(first, self.rows.column_count)
            with body.when(there) if there is not None else nullcontext():
                at = {**self.row, **decompose(first, self.rows.columns, body)}
                step(chunk, at, self._loaded(stage, at, chunk))
        self.filled |= {x for i, x in enumerate(stage.spec.reads) if i not in stage.inner and x in self.again}

    def _point(self, stage: FlatStage, at: dict[str, Expr], number: int, loaded: list[dict[int, Prim]]) -> Point:
        """Neighbour `number` of a vector."""
        here = dict(at)
        if number:
            last = self.rows.columns[-1].name
            here[last] = self.body.simplify(at[last] + number)
        return point_at(self.body, stage.spec, here, (), loaded[number])

    def _loaded(self, stage: FlatStage, at: dict[str, Expr], chunk: Expr) -> list[dict[int, Prim]]:
        """What is loaded for each neighbour of a vector: kept values, vectors, what is the same for all."""
        body, spec = self.body, stage.spec
        start = point_at(body, spec, at)
        columns = {x.name for x in self.rows.columns}
        found = [dict(self._inner(stage, chunk, v)) for v in range(self.vector)]
        for slot, access in enumerate(spec.reads):
            if slot in stage.inner:
                continue
            if access in self.again:
                self._fill(stage, slot, at, chunk, start)
                for v in range(self.vector):
                    stored = self.again[access][body.index(chunk * self.vector + v)]
                    found[v][slot] = types.from_storage(stored, access.value.dtype)
            elif not columns & variables(access.address, access.guard) and not _steered(spec, slot):
                value = start.load(slot)
                for one in found:
                    one[slot] = value
            elif self.vector > 1 and contiguous(spec, access, self.rows.columns[-1], self.vector):
                source = body.params[access.value.name]
                wide = load_words(body, access.value.dtype, self.vector, source, start.index(access.address))
                for v in range(self.vector):
                    found[v][slot] = types.from_storage(wide[i32(v)], access.value.dtype)
        return found

    def _inner(self, stage: FlatStage, chunk: Expr | None, number: int = 0) -> dict[int, Prim]:
        """What earlier stages have made, by slot."""
        found = {}
        for slot, value in stage.inner.items():
            place = i32(0)
            if self.kinds[value] == "map":
                if chunk is None:
                    continue
                place = self.body.index(chunk * self.vector + number)
            found[slot] = self.body.bind(types.from_storage(self.cells[value][place], value.dtype), "v")
        return found

    def _fill(self, stage: FlatStage, slot: int, at: dict[str, Expr], chunk: Expr, start: Point) -> None:
        """Loads what several stages read, in the first of them."""
        access, body = stage.spec.reads[slot], self.body
        if access in self.filled:
            return
        registers = self.again[access]
        wide = None
        if self.vector > 1 and contiguous(stage.spec, access, self.rows.columns[-1], self.vector):
            source = body.params[access.value.name]
            wide = load_words(body, access.value.dtype, self.vector, source, start.index(access.address))
        for v in range(self.vector):
            if wide is not None:
                value = wide[i32(v)]
            else:
                point = self._point(stage, at, v, [{}] * self.vector)
                value = types.to_storage(point.read(access), access.value.dtype)
            body.store(registers, body.index(chunk * self.vector + v), value)

    def _map(self, stage: FlatStage) -> None:
        """Values per row and column, kept, stored, or both."""
        body, spec = self.body, stage.spec

        def step(chunk: Expr, at: dict[str, Expr], loaded: list[dict[int, Prim]]) -> None:
            outputs: dict[int, Prim] = {}
            for v in range(self.vector):
                point = self._point(stage, at, v, loaded)
                point.give({f"s{i}": point.value(x) for i, x in enumerate(spec.body)})
                for number, store in enumerate(spec.stores):
                    value = types.to_storage(point.value(store.expr), store.value.dtype)
                    if store.value in self.cells:
                        value = body.bind(value, "stored")
                        body.store(self.cells[store.value], body.index(chunk * self.vector + v), value)
                    if store.value not in self.rows.outputs:
                        continue
                    if self.vector > 1 and contiguous(spec, store, self.rows.columns[-1], self.vector):
                        if number not in outputs:
                            outputs[number] = body.registers(types.storage(store.value.dtype), self.vector, "out")
                        body.store(outputs[number], i32(v), value)
                    else:
                        with self._inside():
                            point.store(store, types.from_storage(value, store.value.dtype))
            start = point_at(body, spec, at)
            for number, registers in outputs.items():
                store = spec.stores[number]
                target = body.params[store.value.name]
                with self._inside():
                    address = start.index(store.address)
                    store_words(body, store.value.dtype, self.vector, registers, target, address)

        self._columns(stage, step)

    def _inside(self) -> Any:
        """Code that runs where the row exists."""
        return nullcontext() if self.inside is None else self.body.when(self.inside)

    def _reduce(self, stage: FlatStage) -> list[Prim]:
        """A reduction along the columns, of which all threads of the team have the states."""
        body, spec = self.body, stage.spec
        combiner = spec.combiner
        assert combiner is not None
        states = States(body, combiner.dtypes)
        states.write([types.literal(x.value, types.carrier(x.dtype)) for x in combiner.identity])

        def step(_: Expr, at: dict[str, Expr], loaded: list[dict[int, Prim]]) -> None:
            for v in range(self.vector):
                point = self._point(stage, at, v, loaded)
                new = [point.value(x) for x in spec.body]
                states.write(combine(body, body.semantics, combiner, states.read(), new))

        self._columns(stage, step)
        if self.lanes > 1:
            join_warp(body, combiner, states, min(self.lanes, self.body.warp))
        if self.lanes > self.body.warp:
            self._join_warps(combiner, states)
        return states.read()

    def _join_warps(self, combiner: Combiner, states: States) -> None:
        """Merges what the warps of a team have; every thread reads all of it, in the same order."""
        body, warps = self.body, self.lanes // self.body.warp
        mine = self.which * warps
        tables = [body.shared(cell(d), self.block * warps, "partial") for d in combiner.dtypes]
        with body.when(body.index((body.thread % self.body.warp) < 1)):
            place = body.index(mine + self.lane // self.body.warp)
            for table, value, dtype in zip(tables, states.read(), combiner.dtypes, strict=True):
                body.store(table, place, to_cell(value, dtype))
        body.sync()
        firsts = [from_cell(body, t[body.index(mine)], d) for t, d in zip(tables, combiner.dtypes, strict=True)]
        states.write(firsts)
        with body.loop("other", warps - 1) as other:
            place = body.index(mine + other + 1)
            right = [from_cell(body, t[place], d) for t, d in zip(tables, combiner.dtypes, strict=True)]
            states.write(combine(body, body.semantics, combiner, states.read(), right))

    def _finish(self, stage: FlatStage, states: list[Prim], loaded: dict[int, Prim]) -> None:
        """The numbers that a row has: kept by all threads of its team, stored by one."""
        body, spec = self.body, stage.spec
        point = point_at(body, spec, self.row, states, {**loaded, **self._inner(stage, None)})
        for store in spec.stores:
            value = body.bind(types.to_storage(point.value(store.expr), store.value.dtype), "stored")
            if store.value in self.cells:
                body.store(self.cells[store.value], i32(0), value)
            if store.value in self.rows.outputs:
                first = body.index(self.lane < 1) if self.lanes > 1 else None
                conditions = [x for x in (first, self.inside) if x is not None]
                allowed = conditions[0] if conditions else None
                for other in conditions[1:]:
                    allowed = tirx.And(allowed, other)
                with body.when(allowed) if allowed is not None else nullcontext():
                    point.store(store, types.from_storage(value, store.value.dtype))


def _steered(spec: FlatSpec, slot: int) -> bool:
    """Whether other reads decide where a read lies."""
    return bool(loads(spec.reads[slot].address, spec.reads[slot].guard))
