"""A phase as what each unit does, one after the other, with numbers in place of expressions.

Symbols stand at their upper bounds. Loops inside units are unrolled in full; in a phase that would grow too long only a
few trips are, for a back edge that orders trips t and t+1 orders the later ones in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from tilewright.interpret.evaluate import evaluate
from tilewright.ir.expr import Expr
from tilewright.ir.program import UNIT, BlockControl, Item, Lane, Phase, Signal, Task, Wait
from tilewright.ir.verify.laws import Place

BLOCK = "no grid barrier stands under block control, and no signal or wait under a condition of a unit"
TRIPS = 3
LONG = 1 << 14
"""Events of a phase beyond which loops are cut off after `TRIPS` trips."""


@attrs.frozen
class Event:
    """One thing that a unit does: a task (`tasks` are its numbers), a signal or a wait."""

    unit: int
    item: Task | Signal | Wait
    tasks: range = range(0)
    key: tuple[str, int] = ("", 0)  # of a signal or wait: event and index
    target: int = 0
    optional: bool = False  # under a condition of the unit


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
            found.setdefault(unit, []).extend(_items(lane.items, {**env, UNIT: unit}, unit, place, trips, False))
    return found, trips >= size


def _length(items: tuple[Item, ...], env: Mapping[str, int]) -> int:
    """Events of a unit's list (for a trip count that depends on the unit, those of unit 0)."""
    total = 0
    for item in items:
        if isinstance(item, BlockControl):
            inner = _length(item.body, {**env, item.counter: 0}) + _length(item.orelse, env)
            total += inner * (number(item.trip, {UNIT: 0, **env}) if item.trip is not None else TRIPS)
        else:
            total += 1
    return total


def lane_units(lane: Lane, env: Mapping[str, int]) -> range:
    """The units of a lane."""
    return range(lane.first, lane.first + number(lane.units, env))


def number(expr: Expr, env: Mapping[str, int]) -> int:
    """The value of an integer expression."""
    return int(evaluate(expr, env))


def _items(
    items: tuple[Item, ...], env: Mapping[str, int], unit: int, place: Place, trips: int, optional: bool
) -> Iterator[Event]:
    for item in items:
        match item:
            case Task():
                first, count, stride = (number(x, env) for x in (item.first, item.count, item.stride))
                tasks = range(first, first + count * stride, stride) if count > 0 and stride else range(0)
                yield Event(unit, item, tasks, optional=optional)
            case Signal() | Wait():
                if optional:
                    raise place.broken(BLOCK, f"event {item.event!r} is touched under a condition")
                target = number(item.target, env) if isinstance(item, Wait) else 0
                yield Event(unit, item, key=(item.event, number(item.index, env)), target=target)
            case BlockControl():
                yield from _control(item, env, unit, place, trips, optional)
            case _:
                raise place.broken(BLOCK, f"{type(item).__name__} stands in a unit's list")


def _control(
    item: BlockControl, env: Mapping[str, int], unit: int, place: Place, trips: int, optional: bool
) -> Iterator[Event]:
    optional = optional or bool(item.condition)
    if not item.counter:
        yield from _items(item.body, env, unit, place, trips, optional)
        yield from _items(item.orelse, env, unit, place, trips, optional)
        return
    count = min(number(item.trip, env), trips) if item.trip is not None else min(trips, TRIPS)
    for trip in range(count):
        yield from _items(item.body, {**env, item.counter: trip}, unit, place, trips, optional)
