"""Emits `cpu.nest`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.expr import Const, Expr, ceil_div, const, maximum, minimum, static
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.cpu.function import CpuFunction, Emitted, tail_mask
from tilewright_backends.lower.code import span
from tilewright_backends.lower.flat import split_number
from tilewright_backends.lower.point import combine
from tilewright_backends.lower.semantics import Semantics
from tilewright_backends.lower.types import Prim, broadcast, carrier, literal
from tilewright_backends.recipes.cpu.common import Loops, axis_extents
from tilewright_backends.recipes.cpu.nest import MAX_UNROLLED, nest_of


def emit(kernel: Kernel, spec: KernelSpec, semantics: Semantics) -> Emitted:
    """The kernel's function."""
    nest = nest_of(spec)
    if nest is None:
        raise InternalError(f"cpu.nest does not take kernel {kernel.name}.")
    function = CpuFunction(kernel, semantics)
    _Emitter(function, nest, kernel.choice.as_dict()).run()
    return function.finish()


class _Emitter:
    def __init__(self, function: CpuFunction, nest: Loops, params: Mapping[str, int]) -> None:
        self.function = function
        self.code = function.code
        self.nest = nest
        self.spec = nest.spec
        self.lanes = params["lanes"]
        self.unroll = params["unroll"]
        self.outer_block = min(params["outer.block"], nest.outer_points)
        self.group = self.unroll * self.lanes
        self.inner_block = params["inner.block"]

    def run(self) -> None:
        """Task number -> block of outer points and block of inner points."""
        inner_tasks = maximum(ceil_div(self.nest.inner_count, self.inner_block), 1)
        task = self.function.task
        block = self._outer_block()
        first = self.code.once((task // inner_tasks) * block)
        start = self.code.once((task % inner_tasks) * self.inner_block)
        remaining = minimum(self.nest.outer_count - first, block)
        with self.code.loop("q", self.code.simplify(remaining)) as q:
            digits = split_number(first + q, axis_extents(self.spec, self.nest.outer))
            at = dict(zip(self.nest.outer, map(self.code.once, digits), strict=True))
            if self.nest.inner and self.lanes > 1:
                if isinstance(self.nest.inner_count, Const):
                    self._vectors(at, start)
                else:
                    self._some_vectors(at, start)
            else:
                self._scalars(at, start)

    def _outer_block(self) -> Expr:
        """Outer points per task. There are as many tasks whatever the symbols are, so they share the points evenly."""
        if isinstance(self.nest.outer_count, Const):
            return const(self.outer_block)
        tasks = -(-self.nest.outer_points // self.outer_block)
        return self.code.simplify(ceil_div(self.nest.outer_count, tasks))

    def _scalars(self, at: dict[str, Expr], start: Expr) -> None:
        if not self.nest.inner:
            self._points([at], None)
            return
        count = minimum(self.nest.inner_count - start, const(self.inner_block))
        with self.code.loop("i", self.code.simplify(count)) as i:
            self._points([at | {self.nest.inner: start + i}], None)

    def _vectors(self, at: dict[str, Expr], start: Expr) -> None:
        """Groups of `unroll` vectors, then the vectors left over, then the partial one."""
        points, lanes, group = self.nest.inner_points, self.lanes, self.group
        lane = self.function.lane(lanes)
        whole = points // group * group
        groups = minimum(const(whole) - start, const(self.inner_block)) // const(group)
        if whole:
            with self.code.loop("g", self.code.simplify(groups)) as g:
                base = start + g * group
                self._points([at | {self.nest.inner: base + u * lanes + lane} for u in range(self.unroll)], None)
        if whole == points:
            return
        last = const(points - self.inner_block) <= start
        with self.code.when(self.code.index(self.code.simplify(last))):
            for first in range(whole, points, lanes):
                mask = tail_mask(first, points, lanes)
                self._points([at | {self.nest.inner: const(first) + lane}], mask)

    def _some_vectors(self, at: dict[str, Expr], start: Expr) -> None:
        """The same for a number of points that is known while running only."""
        code, lanes, group, inner = self.code, self.lanes, self.group, self.nest.inner
        lane = self.function.lane(lanes)
        here = code.simplify(minimum(self.nest.inner_count - start, const(self.inner_block)))
        with code.loop("g", here // group) as g:
            base = start + g * group
            self._points([at | {inner: base + u * lanes + lane} for u in range(self.unroll)], None)
        begun = (here // group) * group
        if self.unroll > 1:
            with code.loop("g", (here - begun) // lanes) as g:
                self._points([at | {inner: start + begun + g * lanes + lane}], None)
        left = here % lanes
        with code.when(code.index(const(0) < left)):
            mask = code.index(lane < left)
            self._points([at | {inner: start + (here - left) + lane}], mask)

    def _points(self, where: list[dict[str, Expr]], mask: Prim) -> None:
        """One vector (or scalar) of points for each entry of `where`, side by side."""
        lanes = self.lanes if self.nest.inner and self.lanes > 1 else 1
        states: list[list[Prim]] = [[] for _ in where]
        if self.spec.combiner is not None:
            states = self._reduce(where, lanes, mask)
        for number, at in enumerate(where):
            point = self.function.point(self.spec, at, lanes, mask)
            if self.spec.combiner is None:
                values = [point.value(x) for x in self.spec.body]
            else:
                values = states[number]
            point.give({f"s{i}": x for i, x in enumerate(values)})
            for store in self.spec.stores:
                point.store(store)

    def _reduce(self, where: list[dict[str, Expr]], lanes: int, mask: Prim) -> list[list[Prim]]:
        """The states of each entry after all reduction points, in the order of the axes."""
        combiner = self.spec.combiner
        assert combiner is not None
        names = tuple(x.name for x in self.spec.reduce)
        kinds = [carrier(x) for x in combiner.dtypes]
        start = [literal(x.value, kind, lanes) for x, kind in zip(combiner.identity, kinds, strict=True)]
        counts = dict(zip(names, axis_extents(self.spec, names), strict=True))
        if self.nest.reduce_points <= MAX_UNROLLED and all(isinstance(x, Const) for x in counts.values()):
            states = [list(start) for _ in where]
            for digits in itertools.product(*(range(static(x)) for x in counts.values())):
                reduced: dict[str, Expr] = dict(zip(names, map(const, digits), strict=True))
                for number, at in enumerate(where):
                    point = self.function.point(self.spec, at | reduced, lanes, mask)
                    values = [point.value(x) for x in self.spec.body]
                    states[number] = combine(self.code, self.function.semantics, combiner, states[number], values)
            return states
        cells = [[self.code.local("acc", kind, lanes) for kind in kinds] for _ in where]
        index = span(0, lanes)
        for row in cells:
            for cell, value in zip(row, start, strict=True):
                self.code.emit(tirx.BufferStore(cell, value, [index]))
        with self.code.loops("r", counts) as reduced:
            for row, at in zip(cells, where, strict=True):
                point = self.function.point(self.spec, at | reduced, lanes, mask)
                values = [point.value(x) for x in self.spec.body]
                old = [self.code.bind(tirx.BufferLoad(cell, [index])) for cell in row]
                merged = combine(self.code, self.function.semantics, combiner, old, values)
                for cell, value in zip(row, merged, strict=True):
                    self.code.emit(tirx.BufferStore(cell, broadcast(value, lanes), [index]))
        return [[self.code.bind(tirx.BufferLoad(cell, [index])) for cell in row] for row in cells]
