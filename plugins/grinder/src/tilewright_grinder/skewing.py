"""A chain of recurrences as one loop, in which each works one step behind the one below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tilewright.frontend.legalize.builder import Tensor
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Const, Expr, as_expr, const, maximum, minimum, select
from tilewright.ir.ops import Loop, Op, Region, Value
from tilewright.rewrites.rename import region_with_values
from tilewright_grinder.editor import Editor


@attrs.frozen
class Layer:
    """One recurrence of a chain.

    Args:
        loop: its body reads `rows` of the layer below, and computes itself what stands between them.
        between: how many operators at the start of the body do that.
        rows: of the layer below: what the body reads them as, and which of that layer's results each is.
    """

    loop: Loop
    between: int
    rows: tuple[tuple[Value, Value], ...]


@attrs.frozen
class Skewed:
    """The one loop, with what stands before and behind it.

    Args:
        stands: by the name of an output of a loop of the chain, what it is now.
    """

    ops: tuple[Op, ...]
    stands: Mapping[str, Value]


@attrs.define
class _Parts:
    """The loop under construction."""

    before: list[Op] = attrs.field(factory=list)
    params: list[Value] = attrs.field(factory=list)
    carried: list[Value] = attrs.field(factory=list)
    ops: list[Op] = attrs.field(factory=list)
    results: list[Value] = attrs.field(factory=list)
    outputs: list[Value] = attrs.field(factory=list)
    rows: list[Value] = attrs.field(factory=list)
    collected: list[tuple[Value, int]] = attrs.field(factory=list)

    def carry(self, start: Value, param: Value, result: Value, output: Value) -> None:
        self.carried.append(start)
        self.params.append(param)
        self.results.append(result)
        self.outputs.append(output)


class Skewing:
    """Makes the loop of a chain.

    Args:
        layers: at least two, of equally many trips.
    """

    def __init__(self, layers: Sequence[Layer], editor: Editor) -> None:
        self.layers = layers
        self.editor = editor
        self.first = layers[0].loop
        assert isinstance(self.first.count, Const)
        self.steps = int(self.first.count.value)
        self.trips = self.steps + len(layers) - 1

    def loop(self) -> Skewed:
        """The loop, behind the values that its rows start from and before what takes the layers' rows from its own."""
        number, going = map(self.editor.fresh, self.first.body.params[:2])
        trip = self.editor.tensor(number)
        parts = _Parts()
        stands: dict[str, Value] = {}
        passed: Mapping[str, Value] = {}
        for delay, layer in enumerate(self.layers):
            passed = self._layer(delay, layer, trip, passed, parts, stands)
        rows = [
            attrs.evolve(self.editor.fresh(x), shape=(const(self.trips), *x.shape[1:])) for x, _ in parts.collected
        ]
        body = Region((number, going, *parts.params), tuple(parts.ops), (going, *parts.results, *parts.rows))
        outputs = (*parts.outputs, *rows)
        name, loc = outputs[0].name, self.first.loc
        loop = Loop(name, None, None, tuple(parts.carried), outputs, body, const(self.trips), loc)
        self.editor.know_trips(loop)
        with self.editor.building(f"{name}_rows", loc) as slices:
            for (old, delay), found in zip(parts.collected, rows, strict=True):
                whole = self.editor.tensor(found)
                stands[old.name] = self.editor.builder.compute(
                    old.dtype, old.extents, lambda i, *at, x=whole, d=delay: x[(i + d, *at)]
                ).value
        return Skewed((*parts.before, loop, *slices), stands)

    def _layer(
        self,
        delay: int,
        layer: Layer,
        trip: Tensor,
        below: Mapping[str, Value],
        parts: _Parts,
        stands: dict[str, Value],
    ) -> Mapping[str, Value]:
        """Adds a layer; returns what the one above reads of it, by the names of results of its body.

        Args:
            below: likewise of the layer below.
        """
        op, editor = layer.loop, self.editor
        states = len(op.carried)
        own = [editor.fresh(x) for x in op.body.params[2:]]
        with editor.building(op.name, op.loc) as made:
            last = self.steps - 1
            step = editor.builder.compute("int64", (), lambda: minimum(maximum(trip[()] - delay, 0), last)).value
        editor.ranges[step.name] = Interval(0, last)
        given = {read.name: below[result.name] for read, result in layer.rows}
        body = region_with_values(op.body, lambda x: given.get(x.name, x))
        inner, ends = editor.copy(body, [step, editor.true, *own])
        after = ends[1 : 1 + states]
        with editor.building(op.name, op.loc) as masks:
            kept = [self._where_active(delay, trip, new, old) for new, old in zip(after, own, strict=True)]
        parts.ops += [*made, *inner, *masks]
        for start, param, result, output in zip(op.carried, own, kept, op.outputs, strict=False):
            stands[output.name] = editor.fresh(output)
            parts.carry(start, param, result, stands[output.name])
        parts.collected += [(x, delay) for x in op.outputs[states:]]
        parts.rows += ends[1 + states :]
        if delay + 1 == len(self.layers):
            return {}
        now = dict(zip((x.name for x in op.body.results), ends, strict=True))
        return {
            result.name: own[after.index(now[result.name])]
            if now[result.name] in after
            else self._carried_row(result, now[result.name], parts)
            for _, result in self.layers[delay + 1].rows
        }

    def _carried_row(self, like: Value, row: Value, parts: _Parts) -> Value:
        """The row of the trip before, which nothing reads in the first trip."""
        editor = self.editor
        with editor.building(like.name, self.first.loc) as fills:
            start = editor.builder.compute(like.dtype, like.extents, lambda *_: const(0, like.dtype), "none").value
        parts.before += fills
        param = editor.fresh(like)
        parts.carry(start, param, row, editor.fresh(like))
        return param

    def _where_active(self, delay: int, trip: Tensor, new: Value, old: Value) -> Value:
        """A state after a trip: the new one where the layer has a step, else what it was."""
        after, before = self.editor.tensor(new), self.editor.tensor(old)

        def active() -> Expr:
            number = as_expr(trip[()])
            if delay == 0:
                return number < self.steps
            started = number >= delay
            return started if delay == self.trips - self.steps else started & (number < self.steps + delay)

        def body(*i: Expr) -> Expr:
            return select(active(), after.at(i), before.at(i))

        return self.editor.builder.compute(new.dtype, new.extents, body).value
