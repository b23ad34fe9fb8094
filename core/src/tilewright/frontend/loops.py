"""`Loop` as an operator with a region, as constants, or written out.

A loop of which every trip can be evaluated while it is imported leaves constants behind. One whose state changes its
shape is written out when it is short. Every other one becomes a region.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import numpy as np
import onnx

from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend import fold
from tilewright.frontend.regions import Regions
from tilewright.frontend.scope import Entry
from tilewright.ir import dtypes
from tilewright.ir.expr import const
from tilewright.ir.ops import Loop, Region, Value, value
from tilewright.rewrites.live import live

MOST_EVALUATED = 4096
"""Trips up to which a loop whose state is known is run while it is imported."""
LIMITLESS = 1 << 48
"""Trips from which on a count is no limit: exporters write the largest integer where there is none."""
MOST_COLLECTED = 1 << 30
"""Bytes that rows may take of which data decide how many there are."""
MOST_UNROLLED = 64
"""Trips up to which a loop is written out when its state changes its shape."""


class RaggedError(InputError):
    """What the trips of a loop collect has different shapes."""


@attrs.frozen
class Loops(Regions):
    """A `Loop`, or what becomes one."""

    def loop(self, inputs: Sequence[Value | None]) -> list[Value]:
        """The outputs of a `Loop`: the carried values, then a row per trip of the others."""
        padded = [*inputs, *([None] * (2 - len(inputs)))]
        trip, condition, rest = padded[0], padded[1], padded[2:]
        carried = self.states(rest)
        graph = fold.attribute(self.node, "body")
        trips, going = self._number(trip), self._truth(condition)
        if trips is not None and trips >= LIMITLESS:
            trip, trips = None, None
        if going is False or trips == 0:
            return self.never(graph, self._params(graph, carried), carried, 1)
        if going and trips is not None and all(self.importer.data(x) is not None for x in carried):
            found = self._evaluate(graph, carried, trips)
            if found is not None:
                return found
        params = self._params(graph, carried)
        try:
            region = self.region(params, lambda: self.tensors(self.inline(graph, params)))
        except UnsupportedError:
            if not self._follows_from_number(graph, carried):
                raise
            return [*self.tensors(self._numbered(graph, carried, trip, condition))]
        self.check_results(region, len(carried))
        if self.changes(region, len(carried)):
            if going and trips is not None and trips <= MOST_UNROLLED:
                return [*self.tensors(self._unroll(graph, carried, trips))]
            self.refuse_growth(region, len(carried))
        result = self._scalar_result(region, 0)
        known = self.importer.data(result.results[0])
        if known is not None and bool(known.reshape(())):
            result = attrs.evolve(result, results=(params[1], *result.results[1:]))
        endless = result.results[0] == params[1]
        if trip is None and going and endless:
            raise InputError(f"{self.what} never ends.", "Give it a trip count or a condition.")
        certain = going is True and endless and trips is not None
        counted = not certain and any(self.node.output[len(carried) :])
        if counted:
            self._check_bound(result, len(carried), trips)
            result, carried = self._counted(result), [*carried, self.int64(0)]
        return self.build(
            result,
            carried,
            trip=None if trips is not None or trip is None else self.scalar(trip, "trip count"),
            count=trips,
            condition=None if going or condition is None else self.scalar(condition, "condition"),
            counted=counted,
        )

    def _check_bound(self, region: Region, states: int, bound: int | None) -> None:
        """Refuses to collect the rows of a loop of which data decide the number, where no bound is known, or a large
        one.
        """
        rows = [
            (name, x) for name, x in zip(self.node.output[states:], region.results[1 + states :], strict=False) if name
        ]
        if bound is None:
            raise self.importer.needed(
                f"Output {rows[0][0]!r} of {self.what} has a row per trip, data decide how many there are, and no "
                "bound is known.",
                "Give the loop a constant as its trip count when exporting.",
                self.given,
            )
        for name, x in rows:
            size = bound * math.prod(x.static_shape()) * dtypes.size_of(x.dtype)
            if size > MOST_COLLECTED:
                raise UnsupportedError(
                    f"Output {name!r} of {self.what} has up to {bound} rows, which take {size} bytes.",
                    "Give the loop a lower trip count.",
                )

    def _counted(self, region: Region) -> Region:
        """The body with one more state: how many trips there were."""
        states = len(region.params) - 2
        param = self.fresh("length", value("", "int64", []))
        more = self.region((), lambda: [self.emit("Add", [region.params[0], self.int64(1)], "length")])
        results = (*region.results[: 1 + states], *more.results, *region.results[1 + states :])
        return Region((*region.params, param), region.ops + more.ops, results)

    def _scalar_result(self, region: Region, number: int) -> Region:
        """The region with one of its results, a value of one element, as a scalar."""
        given = region.results[number]
        if given.rank == 0:
            return region
        more = self.region((), lambda: [self.scalar(given, "condition of the body")])
        results = tuple(more.results[0] if n == number else x for n, x in enumerate(region.results))
        return Region(region.params, region.ops + more.ops, results)

    def states(self, given: Sequence[Value | None]) -> list[Value]:
        missing = [n for n, x in enumerate(given) if x is None]
        if missing:
            raise InputError(f"{self.what} has no initial value for its state {missing[0]}.", "Repair the model.")
        return [x for x in given if x is not None]

    def _number(self, trip: Value | None) -> int | None:
        """The trip count when it is known."""
        known = self.importer.data(trip)
        return None if known is None else max(int(known.reshape(())), 0)

    def _truth(self, condition: Value | None) -> bool | None:
        """Whether there is a first trip (the trip count aside), when that is known."""
        if condition is None:
            return True
        known = self.importer.data(condition)
        return None if known is None else bool(known.reshape(()))

    def _params(self, graph: onnx.GraphProto, carried: Sequence[Value]) -> list[Value]:
        names = [x.name for x in graph.input]
        types = [value("", "int64", []), value("", "bool", []), *carried]
        if len(names) != len(types):
            raise InputError(
                f"The body of {self.what} takes {len(names)} inputs, the loop has {len(carried)} states.",
                f"It must take {len(types)}: the trip's number, the condition and the states.",
            )
        return [self.fresh(name, kind) for name, kind in zip(names, types, strict=True)]

    def check_results(self, region: Region, states: int, first: int = 1) -> None:
        # Outputs at the end of a node's list may be left out.
        if len(region.results) < first + max(states, len(self.node.output)):
            raise InputError(
                f"The body of {self.what} has {len(region.results)} outputs for {len(self.node.output)} of the node.",
                f"It must have the condition, {states} states, and what is collected.",
            )

    def changes(self, region: Region, states: int) -> bool:
        """Whether a state has another shape after a trip than before it."""
        pairs = zip(region.params[2:], region.results[1 : 1 + states], strict=True)
        for before, after in pairs:
            if before.dtype != after.dtype:
                raise InputError(
                    f"A state of {self.what} is {before.dtype} before a trip and {after.dtype} after it.",
                    "Repair the model.",
                )
            if before.shape != after.shape:
                return True
        return False

    def refuse_growth(self, region: Region, states: int) -> None:
        for before, after in zip(region.params[2:], region.results[1 : 1 + states], strict=True):
            if before.shape != after.shape:
                raise self.importer.needed(
                    f"A state of {self.what} has the shape {list(before.static_shape())} before a trip and "
                    f"{list(after.static_shape())} after it.",
                    "Keep the state in a tensor of fixed size and count how much of it is in use.",
                    [x for x in self.given[:2] if self.importer.data(x) is None and x.rank == 0],
                )

    def never(
        self, graph: onnx.GraphProto, params: Sequence[Value], carried: Sequence[Value], first: int
    ) -> list[Value]:
        """A loop without trips: the region says only of which type the empty results are.

        Args:
            params: what a trip would be given.
            first: which result of the body is the first state.
        """
        region = self.region(params, lambda: self.tensors(self.inline(graph, params)))
        self.check_results(region, len(carried), first)
        return [*carried, *map(self._empty, region.results[first + len(carried) :])]

    def _evaluate(self, graph: onnx.GraphProto, carried: Sequence[Value], trips: int) -> list[Value] | None:
        """The outputs as constants when every trip can be evaluated, otherwise None."""
        collected: list[list[Value]] = []
        states = list(carried)
        for number in range(min(trips, MOST_EVALUATED + 1)):
            step = [self.int64(number), self.importer.constant("condition", np.asarray(True)), *states]
            region = self.region((), lambda step=step: self.tensors(self.inline(graph, step)))  # type: ignore[misc]
            self.check_results(region, len(carried))
            if number == MOST_EVALUATED or any(self.importer.data(x) is None for x in region.results):
                return None
            states = list(region.results[1 : 1 + len(carried)])
            collected.append(list(region.results[1 + len(carried) :]))
            if not bool(np.asarray(self.importer.data(region.results[0])).reshape(())):
                break
        return [*states, *self.stack(collected)]

    def over_sequences(self, entries: Sequence[Entry]) -> list[Entry]:
        """The outputs of a `Loop` that carries or captures sequences: written out, where it is known how often it runs.

        Args:
            entries: what its inputs stand for.
        """
        padded = [*entries, *([None] * (2 - len(entries)))]
        trip, condition = (None if x is None else self.tensors([x])[0] for x in padded[:2])
        trips, going = self._number(trip), self._truth(condition)
        graph, carried = fold.attribute(self.node, "body"), padded[2:]
        if going is False:
            trips = 0
        if trips is not None and trips <= MOST_UNROLLED and going is not None:
            return self._unroll(graph, carried, trips)
        if not any(isinstance(x, tuple) for x in carried):
            return [*self.loop([trip, condition, *self.tensors(carried)])]
        raise self.importer.needed(
            f"{self.what} carries a sequence, and it is not known how often it runs.",
            f"Let it run a constant number of times, {MOST_UNROLLED} at most.",
            [x for x in (trip, condition) if x is not None],
        )

    def _follows_from_number(self, graph: onnx.GraphProto, carried: Sequence[Value]) -> bool:
        """Whether the shapes in the body are known once it is known which trip it is."""
        step = [self.int64(0), self.importer.constant("condition", np.asarray(True)), *carried]
        try:
            self.region((), lambda: self.tensors(self.inline(graph, step)))
        except UnsupportedError:
            return False
        return True

    def _numbered(
        self, graph: onnx.GraphProto, carried: Sequence[Value], trip: Value | None, condition: Value | None
    ) -> list[Entry]:
        """A loop in whose body a shape follows from the number of the trip, written out."""
        trips = self._number(trip)
        unknown = [x for x in (trip, condition) if x is not None and self.importer.data(x) is None]
        if trips is None or unknown:
            raise self.importer.needed(
                f"A shape in the body of {self.what} follows from the number of the trip, and data decide how many "
                "there are.",
                "Give the loop a constant as its trip count when exporting.",
                unknown,
            )
        if trips > MOST_UNROLLED:
            raise UnsupportedError(
                f"A shape in the body of {self.what} follows from the number of the trip, and it has {trips} of them.",
                f"Up to {MOST_UNROLLED} are written out; give the loop fewer, or its body fixed shapes.",
            )
        return self._unroll(graph, carried, trips)

    def _unroll(self, graph: onnx.GraphProto, carried: Sequence[Entry], trips: int) -> list[Entry]:
        """The loop written out."""
        collected: list[Sequence[Value]] = []
        states = list(carried)
        for number in range(trips):
            step = [self.int64(number), self.importer.constant("condition", np.asarray(True)), *states]
            on, *results = self.inline(graph, step)
            (going,) = self.tensors([on])
            states = results[: len(carried)]
            collected.append(self.tensors(results[len(carried) :]))
            known = self.importer.data(going)
            if known is None:
                raise self.importer.needed(
                    f"A state of {self.what} changes its shape from trip to trip, and data decide how many there are.",
                    "Keep the state in a tensor of fixed size and count how much of it is in use.",
                    [going],
                )
            if not bool(known.reshape(())):
                break
        return [*states, *(self.stack(collected) if collected else self._nothing(graph, carried))]

    def _nothing(self, graph: onnx.GraphProto, carried: Sequence[Entry]) -> list[Value]:
        """What a loop collects in no trip."""
        step = [self.int64(0), self.importer.constant("condition", np.asarray(True)), *carried]
        region = self.region((), lambda: self.tensors(self.inline(graph, step)[1 + len(carried) :]))
        return [self._empty(x) for x in region.results]

    def _empty(self, row: Value) -> Value:
        return self.importer.constant("empty", np.zeros((0, *row.static_shape()), dtypes.to_numpy(row.dtype)))

    def stack(self, rows: Sequence[Sequence[Value]]) -> list[Value]:
        """The results of the trips that are collected, along a new first dimension."""
        stacked = []
        for column in zip(*rows, strict=True):
            shapes = {x.shape for x in column}
            if len(shapes) > 1:
                raise RaggedError(f"{self.what} collects tensors of different shapes.", "Repair the model.")
            axes = [self.int64([0])] if self.scope.opsets[""] >= 13 else []
            first: dict[str, object] = {} if axes else {"axes": [0]}
            parts = [self.emit("Unsqueeze", [x, *axes], "row", **first) for x in column]
            stacked.append(self.emit("Concat", parts, "rows", axis=0))
        return stacked

    def build(
        self,
        region: Region,
        carried: Sequence[Value],
        *,
        trip: Value | None,
        count: int | None,
        condition: Value | None,
        counted: bool = False,
    ) -> list[Value]:
        """Adds the loop; returns a value per output of the node.

        Args:
            counted: whether data decide how often it runs, `count` times at most; the last state says it then.
        """
        states = len(carried)
        own = states - counted
        outputs: list[Value] = []
        made: list[Value] = []
        kept: list[Value] = []
        names = [*self.node.output, *[""] * (len(region.results) - 1 - counted - len(self.node.output))]
        names[own:own] = ["length"] * counted
        for n, (name, result) in enumerate(zip(names, region.results[1:], strict=True)):
            if n < states:
                outputs.append(self.fresh(name or "state", result))
                made.append(outputs[-1])
                continue
            shape = (const(count or 0), *result.shape)
            outputs.append(self.fresh(name or "rows", attrs.evolve(result, shape=shape)))
            if name:
                kept.append(result)
                made.append(outputs[-1])
                if counted:
                    self.importer.lengths[outputs[-1].name] = outputs[own]
        body = live(Region(region.params, region.ops, (*region.results[: 1 + states], *kept)))
        limit = None if count is None else const(count)
        if made:
            self.importer.ops.append(
                Loop(made[0].name, trip, condition, tuple(carried), tuple(made), body, limit, self.loc)
            )
        return [*outputs[:own], *outputs[states:]]
