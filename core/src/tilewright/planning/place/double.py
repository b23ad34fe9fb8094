"""Double buffers: a loop's state in two places by turns, where its successor is written while the state is still read.

Such a state would be copied after each trip. Instead every trip with an even number reads the one place and writes the
other, and every odd one the other way round: the loop runs over pairs of trips. That each place is whole when it is
read is what the laws of storage and of order say about any two values, for nothing here is special to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import attrs

from tilewright.ir.expr import Const, Expr, Var, const, substitute
from tilewright.ir.program import (
    BlockControl,
    Copy,
    Fetch,
    Fork,
    GridCall,
    GridControl,
    HostCall,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    HostStep,
    Item,
    Launch,
    Part,
    Phase,
    Set,
    Task,
    every_call,
    host_leaves,
)

SMALLEST = 1 << 16
"""Bytes of state from which on a second body saves time on a CPU; a smaller copy stays in the caches."""
MOST_STEPS = 64
"""Steps of a body that may be there twice."""

NO_TWINS: Mapping[str, str] = MappingProxyType({})

_Control = TypeVar("_Control", GridControl, BlockControl)


def doubled(
    loop: HostLoop, pairs: Mapping[str, str], twins: Mapping[str, str] = NO_TWINS
) -> tuple[HostStep, ...] | None:
    """The loop over pairs of trips, or None where it is left as it is.

    Args:
        loop: its body reads each state in one place and writes its successor in another, and copies nothing back.
        pairs: by the place of a state, that of its successor.
        twins: what odd trips have in place of values that only last a trip. Without one, an odd trip could not write
            such a value as long as the one before it is still read.
    """
    if loop.limit or sum(1 for _ in host_leaves(loop.body)) > MOST_STEPS:
        return None
    if any(set(x.reads) & {*pairs, *pairs.values()} for x in every_call(loop.body)):
        return None  # a procedure reads a state in one place, whatever the trip
    number = Var(loop.counter)
    swapped = {**twins, **pairs, **{b: a for a, b in pairs.items()}}
    back = tuple(HostCopy(b, a) for a, b in pairs.items())
    even = tuple(Turned({}, {loop.counter: number * 2}, "").steps(loop.body))
    # The counter tells the copies of a loop from those of a loop around it.
    odd = tuple(Turned(swapped, {loop.counter: number * 2 + 1}, f".odd.{loop.counter}").steps(loop.body))
    if loop.condition:
        if loop.trip is not None:
            return None
        # Whoever ends after an even trip has the states in the other places.
        return (attrs.evolve(loop, body=(*even, HostIf(loop.condition, odd, back))),)
    if not isinstance(loop.trip, Const) or int(loop.trip.value) < 2:
        return None
    trips = int(loop.trip.value)
    over = attrs.evolve(loop, trip=const(trips // 2), body=(*even, *odd))
    if trips % 2 == 0:
        return (over,)
    last = tuple(Turned({}, {loop.counter: const(trips - 1)}, f".last.{loop.counter}").steps(loop.body))
    return (over, *last, *back)


@attrs.frozen
class Turned:
    """A body, or a part of a launch, as it is for some of the trips.

    Args:
        names: places that stand for others.
        counter: what stands for the loop's counter.
        suffix: of the names of launches.
    """

    names: Mapping[str, str]
    counter: Mapping[str, Expr]
    suffix: str

    def steps(self, steps: Sequence[HostStep]) -> Iterator[HostStep]:
        """The steps of a body."""
        for step in steps:
            match step:
                case Launch():
                    parts = tuple(map(self.part, step.body))
                    yield attrs.evolve(step, name=f"{step.name}{self.suffix}", body=parts)
                case HostCopy():
                    row = None if step.row is None else self._expr(step.row)
                    yield HostCopy(self._name(step.source), self._name(step.target), row)
                case HostSet():
                    yield HostSet(self._name(step.target), self._expr(step.value))
                case HostIf():
                    then, orelse = (tuple(self.steps(x)) for x in (step.then, step.orelse))
                    yield attrs.evolve(step, condition=self._name(step.condition), then=then, orelse=orelse)
                case HostLoop():
                    yield attrs.evolve(
                        step,
                        trip=None if step.trip is None else self._expr(step.trip),
                        condition=self._name(step.condition),
                        limit=self._name(step.limit),
                        body=tuple(self.steps(step.body)),
                    )
                case HostCall():
                    args, results = (tuple(map(self._name, x)) for x in (step.args, step.results))
                    yield attrs.evolve(step, args=args, results=results)

    def _name(self, name: str) -> str:
        return self.names.get(name, name)

    def _expr(self, expr: Expr) -> Expr:
        return substitute(expr, self.counter)

    def part(self, part: Part) -> Part:
        """A part of a launch."""
        if isinstance(part, Phase):
            lanes = tuple(attrs.evolve(x, items=tuple(map(self._item, x.items))) for x in part.lanes)
            return Phase(lanes)
        if isinstance(part, GridCall):
            return self._call(part)
        if isinstance(part, Fork):
            return Fork(tuple(map(self._call, part.calls)))
        body, orelse = (tuple(map(self.part, x)) for x in (part.body, part.orelse))
        return attrs.evolve(self._control(part), body=body, orelse=orelse)

    def _call(self, call: GridCall) -> GridCall:
        args, results = (tuple(map(self._name, x)) for x in (call.args, call.results))
        return attrs.evolve(call, args=args, results=results)

    def _item(self, item: Item) -> Item:
        match item:
            case Task():
                first, count, stride = map(self._expr, (item.first, item.count, item.stride))
                args = tuple(map(self._name, item.args))
                return attrs.evolve(item, args=args, first=first, count=count, stride=stride)
            case Copy():
                row = None if item.row is None else self._expr(item.row)
                return attrs.evolve(item, source=self._name(item.source), target=self._name(item.target), row=row)
            case Set():
                return Set(self._name(item.target), self._expr(item.value))
            case Fetch():
                return attrs.evolve(item, source=self._name(item.source), first=self._expr(item.first))
            case BlockControl():
                body, orelse = (tuple(map(self._item, x)) for x in (item.body, item.orelse))
                return attrs.evolve(self._control(item), body=body, orelse=orelse)
        return item

    def _control(self, control: _Control) -> _Control:
        trip = None if control.trip is None else self._expr(control.trip)
        condition, limit = self._name(control.condition), self._name(control.limit)
        return attrs.evolve(control, trip=trip, condition=condition, limit=limit)
