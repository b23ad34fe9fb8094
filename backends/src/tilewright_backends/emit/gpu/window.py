"""Sliding windows: a thread computes a small tile of outputs and loads what several of them read once.

Row by row of the input: what the outputs need of it goes into registers, then every output that uses the row takes its
steps. So each output sums in the order of the axes, as a plain loop does. Threads are numbered along the rows of
outputs, then over tiles of rows and planes, so that short rows leave no thread idle. The last tile of a row that tiles
do not cover evenly lies further inside and stores only what no other does; nothing is read outside of that.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import nullcontext

import attrs

from tilewright.errors import InternalError
from tilewright.ir.expr import Apply, Expr, Var, all_of, as_expr, const, minimum, substitute, variables
from tilewright.ir.ops import Axis
from tilewright.ir.polynomial import canonical
from tilewright.ir.program import Kernel
from tilewright.views.kernel import KernelSpec
from tilewright_backends.emit.gpu.body import GpuBody
from tilewright_backends.emit.gpu.points import decompose, point_at, points_in, size, whole
from tilewright_backends.emit.gpu.states import States
from tilewright_backends.lower import types
from tilewright_backends.lower.point import combine
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.window import Window, window_of

Place = tuple[int, int]


def emit(body: GpuBody, kernel: Kernel, spec: KernelSpec) -> None:
    """The code of one task of a kernel."""
    window = window_of(spec)
    if window is None:
        raise InternalError(f"window does not take kernel {kernel.name}.")
    statements(body, window, kernel.choice["y.thread"], kernel.choice["x.thread"])


def statements(body: GpuBody, window: Window, rows: int, columns: int) -> None:
    """Statements of one task: each thread computes `rows * columns` neighbouring points."""
    tiles = (
        *window.planes,
        Axis(".y", const(-(-window.rows // rows))),
        Axis(".x", const(-(-window.columns // columns))),
    )
    number = body.hold(body.task * body.threads + body.thread, "number")
    total = points_in(tiles)
    inside = None if whole(total, body.threads) else body.index(number < as_expr(total))
    with nullcontext() if inside is None else body.when(inside):
        found = decompose(number, tiles, body)
        tile = _Tile(body, window, rows, columns, found)
        tile.accumulate()
        tile.finish()


class _Tile:
    """The outputs of one thread."""

    def __init__(self, body: GpuBody, window: Window, rows: int, columns: int, tile: Mapping[str, Expr]) -> None:
        self.body = body
        self.window = window
        self.rows = range(rows)
        self.columns = range(columns)
        self.planes = {a.name: tile[a.name] for a in window.planes}
        self.y, self.new_y = self._start(tile[".y"], window.rows, rows)
        self.x, self.new_x = self._start(tile[".x"], window.columns, columns)
        self._conditions: dict[Expr, Expr] = {}
        self._bases: dict[int, Expr] = {}
        self._loaded: dict[tuple[object, ...], Prim] = {}
        combiner = window.spec.combiner
        assert combiner is not None
        self.combiner = combiner
        self.states = {(i, j): States(body, combiner.dtypes) for i in self.rows for j in self.columns}

    def _start(self, tile: Expr, extent: int, length: int) -> tuple[Expr, Expr | None]:
        """The first point of a tile, and, where it may overlap the one before, its first new point."""
        first = self.body.hold(tile * length, "first")
        if extent % length == 0:
            return first, None
        return self.body.hold(minimum(first, extent - length), "start"), first

    def at(self, row: int, column: int) -> dict[str, Expr]:
        """The spatial axes at an output."""
        window = self.window
        here = {**self.planes, window.x.name: self.x + column}
        if window.y is not None:
            here[window.y.name] = self.y + row
        return here

    def accumulate(self) -> None:
        """Reduces the windows of all outputs."""
        for state in self.states.values():
            state.write([types.literal(x.value, types.carrier(x.dtype)) for x in self.combiner.identity])
        window = self.window
        over_x = range(1 if window.over_x is None else size(window.over_x))
        for outer in itertools.product(*(range(size(a)) for a in window.outer)):
            for row, over_y in self._by_row():
                for over, column in itertools.product(over_x, self.columns):
                    self._step(outer, row, over_y, column, over)

    def _by_row(self) -> list[tuple[int, int]]:
        """Rows of outputs and of windows, those that read the same row of the input together."""
        window = self.window
        pairs = [(i, r) for i in self.rows for r in range(1 if window.over_y is None else size(window.over_y))]
        slides = [s for s in window.slides_y if s.shared and s.stride and s.dilation]
        if not slides:
            return sorted(pairs, key=lambda p: p[1])
        down = 1 if slides[0].dilation > 0 else -1
        return sorted(pairs, key=lambda p: (down * slides[0].place(*p)[0], p))

    def _step(self, outer: tuple[int, ...], row: int, over_y: int, column: int, over_x: int) -> None:
        body, window = self.body, self.window
        at = self.at(row, column) | self._reduced(outer, over_y, over_x)
        slots = range(window.spec.body_reads)
        loaded = {slot: self._load(slot, outer, (row, over_y), (column, over_x)) for slot in slots}
        point = point_at(body, window.spec, at, (), loaded)
        new = [point.value(x) for x in window.spec.body]
        state = self.states[row, column]
        state.write(combine(body, body.semantics, self.combiner, state.read(), new))

    def _reduced(self, outer: tuple[int, ...], over_y: int, over_x: int) -> dict[str, Expr]:
        window = self.window
        found: dict[str, Expr] = {a.name: const(r) for a, r in zip(window.outer, outer, strict=True)}
        found |= {a.name: const(r) for a, r in ((window.over_y, over_y), (window.over_x, over_x)) if a is not None}
        return found

    def _load(self, slot: int, outer: tuple[int, ...], down: Place, across: Place) -> Prim:
        """The value of a read, loaded where no output needed it before."""
        window = self.window
        places = window.slides_y[slot].place(*down), window.slides_x[slot].place(*across)
        key = (slot, outer, *places)
        if key not in self._loaded:
            read = window.spec.reads[slot]
            at = self.at(down[0], across[0]) | self._reduced(outer, down[1], across[1])
            moved = attrs.evolve(read, address=self._address(slot, at), guard=self._guard(read.guard, at))
            self._loaded[key] = self.body.bind(point_at(self.body, window.spec, {}).read(moved), "v")
        return self._loaded[key]

    def _address(self, slot: int, at: Mapping[str, Expr]) -> Expr:
        """An address as the tile's first one, computed once, and a literal."""
        address = self.window.spec.reads[slot].address
        first = self.at(0, 0) | {a.name: const(0) for a in self.window.spec.reduce}
        start = substitute(address, first)
        if slot not in self._bases:
            self._bases[slot] = self.body.hold(start, "base")
        return self.body.simplify(self._bases[slot] + canonical(substitute(address, at) - start))

    def _guard(self, guard: Expr | None, at: Mapping[str, Expr]) -> Expr | None:
        """A guard of which what concerns rows or columns alone is computed once for all that share it."""
        window = self.window
        down, across = (window.y, window.over_y), (window.x, window.over_x)
        along = [{a.name for a in axes if a is not None} for axes in (down, across)]
        parts: dict[tuple[bool, ...], Expr | None] = {}
        for part in _conjuncts(guard):
            kind = tuple(bool(names & variables(part)) for names in along)
            parts[kind] = all_of(parts.get(kind), part)
        placed = (self.body.simplify(substitute(x, at)) for x in parts.values() if x is not None)
        return all_of(*(self._known(x) for x in placed if x != const(True, "bool")))

    def _known(self, condition: Expr) -> Expr:
        """A variable that holds a condition."""
        if condition not in self._conditions:
            name = self.body.unique("inside")
            self.body.env[name] = self.body.bind(self.body.index(condition), name)
            self._conditions[condition] = Var(name, "bool")
        return self._conditions[condition]

    def finish(self) -> None:
        """Stores what the outputs are."""
        body, window = self.body, self.window
        for (row, column), state in self.states.items():
            fresh = all_of(
                None if self.new_y is None else self.new_y <= self.y + row,
                None if self.new_x is None else self.new_x <= self.x + column,
            )
            with nullcontext() if fresh is None else body.when(body.index(body.simplify(fresh))):
                point = point_at(body, window.spec, self.at(row, column), state.read())
                for store in window.spec.stores:
                    point.store(store)


def _conjuncts(guard: Expr | None) -> list[Expr]:
    if guard is None:
        return []
    if isinstance(guard, Apply) and guard.op == "and":
        return [x for arg in guard.args for x in _conjuncts(arg)]
    return [guard]
