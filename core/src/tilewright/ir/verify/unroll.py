"""A phase as what each unit does, one after the other, with numbers in place of expressions.

Symbols stand at their upper bounds. Loops inside units are unrolled in full; in a phase that would grow too long only a
few trips are, for a back edge that orders trips t and t+1 orders the later ones in the same way. So it is with loops
of which values decide how often they run. What a unit reads to decide is an event of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from tilewright.interpret.evaluate import evaluate
from tilewright.ir.expr import Expr
from tilewright.ir.program import UNIT, BlockControl, Copy, Fetch, Item, Lane, Phase, Set, Signal, Task, Wait
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.tree import Work, decides

BLOCK = "no grid barrier stands under block control, and no signal or wait under a condition of a unit"
TRIPS = 3
LONG = 1 << 14
"""Events of a phase beyond which loops are cut off after `TRIPS` trips."""


Acting = Work | BlockControl
"""What touches values; control reads what it decides by."""
Scope = tuple[tuple[str, int], ...]
"""What a unit has decided before it gets somewhere: for each branch or loop which side, or which trip.

A trip follows the ones before it, so these stand in its scope too: what a scope begins with has run when it runs.
"""


@attrs.frozen
class Call:
    """A kernel with its arguments; or a copy, the setting of a value, or a decision, on the values that it is about."""

    name: str
    args: tuple[str, ...]
    kernel: bool = True

    def __str__(self) -> str:
        return self.name if self.kernel else f"{self.name} {' to '.join(map(repr, self.args))}"


def call_of(item: Acting) -> Call:
    """What an item is a part of."""
    match item:
        case Task():
            return Call(item.kernel, item.args)
        case Copy():
            return Call("the copy of", (item.source, item.target), kernel=False)
        case Set():
            return Call("the setting of", (item.target,), kernel=False)
    return Call("the decision by", decides(item), kernel=False)


@attrs.frozen
class Event:
    """One thing that a unit does: work (`tasks` are the numbers of its parts), a fetch, a decision, a signal or a wait.

    Args:
        first: of a fetch, its first byte.
        scope: what was decided before, by values; empty for what runs in any case.
    """

    unit: int
    item: Acting | Fetch | Signal | Wait
    tasks: range = range(0)
    key: tuple[str, int] = ("", 0)  # of a signal or wait: event and index
    target: int = 0
    first: int = 0
    scope: Scope = ()


def unroll(phase: Phase, env: Mapping[str, int], place: Place) -> tuple[dict[int, list[Event]], bool]:
    """What each unit of the phase does, by unit, and whether that is all of it: no loop was cut off.

    Args:
        env: numbers for the symbols and the counters of enclosing loops.
    """
    size = sum(len(lane_units(lane, env)) * _length(lane.items, env) for lane in phase.lanes)
    trips = TRIPS if size > LONG else size
    found: dict[int, list[Event]] = {}
    for lane in phase.lanes:
        for unit in lane_units(lane, env):
            walk = _Walk(unit, trips, place)
            found.setdefault(unit, []).extend(walk.items(lane.items, {**env, UNIT: unit}, (), ""))
    return found, trips >= size


def _length(items: tuple[Item, ...], env: Mapping[str, int]) -> int:
    """Events of a unit's list (for a trip count that depends on the unit, those of unit 0)."""
    total = 0
    for item in items:
        if isinstance(item, BlockControl):
            inner = _length(item.body, {**env, item.counter: 0}) + _length(item.orelse, env)
            known = item.counter and item.trip is not None and not decides(item)
            trips = number(item.trip, {UNIT: 0, **env}) if known and item.trip is not None else TRIPS
            total += inner * (trips if item.counter else 1)
        else:
            total += 1
    return total


def lane_units(lane: Lane, env: Mapping[str, int]) -> range:
    """The units of a lane."""
    return range(lane.first, lane.first + number(lane.units, env))


def number(expr: Expr, env: Mapping[str, int]) -> int:
    """The value of an integer expression."""
    return int(evaluate(expr, env))


@attrs.frozen
class _Walk:
    """What a unit does.

    Args:
        trips: of a loop that are unrolled at most.
    """

    unit: int
    trips: int
    place: Place

    def items(self, items: tuple[Item, ...], env: Mapping[str, int], scope: Scope, path: str) -> Iterator[Event]:
        """Its events.

        Args:
            path: where in the lane the items stand.
        """
        for at, item in enumerate(items):
            match item:
                case Task():
                    first, count, stride = (number(x, env) for x in (item.first, item.count, item.stride))
                    tasks = range(first, first + count * stride, stride) if count > 0 and stride else range(0)
                    yield Event(self.unit, item, tasks, scope=scope)
                case Copy():
                    part = number(item.part, env)
                    yield Event(self.unit, item, range(part, part + 1), scope=scope)
                case Set():
                    yield Event(self.unit, item, range(1), scope=scope)
                case Fetch():
                    yield Event(self.unit, item, first=number(item.first, env), scope=scope)
                case Signal() | Wait():
                    if scope:
                        raise self.place.broken(BLOCK, f"event {item.event!r} is touched under a condition")
                    target = number(item.target, env) if isinstance(item, Wait) else 0
                    yield Event(self.unit, item, key=(item.event, number(item.index, env)), target=target)
                case BlockControl():
                    yield from self._control(item, env, scope, f"{path}.{at}")
                case _:
                    raise self.place.broken(BLOCK, f"{type(item).__name__} stands in a unit's list")

    def _control(self, item: BlockControl, env: Mapping[str, int], scope: Scope, path: str) -> Iterator[Event]:
        decided = " ".join((*decides(item), path))
        test = [Event(self.unit, item, range(1), scope=scope)] if decides(item) else []
        yield from test
        if not item.counter:
            for side, body in enumerate((item.body, item.orelse)):
                yield from self.items(body, env, (*scope, (decided, side)), f"{path}/{side}")
            return
        count = self.trips if item.trip is None else min(number(item.trip, env), self.trips)
        for trip in range(min(count, TRIPS) if test else count):
            if test:
                scope = (*scope, (decided, trip))
            yield from self.items(item.body, {**env, item.counter: trip}, scope, path)
            yield from (attrs.evolve(x, scope=scope) for x in test)
