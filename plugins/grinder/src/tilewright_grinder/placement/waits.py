"""Waits as barriers: a launch in which units wait for each other as phases, of which each follows the ones before.

In a loop a launch's counters would have to go on from trip to trip, whose number nobody knows before. So what a
scheduler orders by signals and waits is ordered by phases here: a unit's work stands in the first phase that comes
after all that it has waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from tilewright.interpret.evaluate import evaluate
from tilewright.ir.expr import Const, Expr, const, substitute
from tilewright.ir.program import UNIT, Copy, Fetch, Item, Lane, Launch, Phase, Set, Signal, Task, Wait

Key = tuple[str, int]


def without_waits(launch: Launch) -> tuple[Phase, ...] | str:
    """The phases of a launch without control, or why there are none."""
    phases: list[Phase] = []
    for part in launch.body:
        if not isinstance(part, Phase):
            return f"launch {launch.name} has control of its own"
        part = _without_fetches(part)
        if not any(isinstance(x, Wait | Signal) for lane in part.lanes for x in lane.items):
            phases.append(part)
            continue
        lists = _lists(part)
        found = None if lists is None else _cut(lists)
        if found is None:
            return f"what units of launch {launch.name} wait for is not known"
        phases += found
    return tuple(phases)


def _without_fetches(phase: Phase) -> Phase:
    """The phase with its weights in memory: in a loop, each trip would fetch them anew."""
    lanes = []
    for lane in phase.lanes:
        items = [x for x in lane.items if not isinstance(x, Fetch)]
        far = tuple(attrs.evolve(x, near=None) if isinstance(x, Task) else x for x in items)
        lanes.append(attrs.evolve(lane, items=far))
    return Phase(tuple(lanes))


def _lists(phase: Phase) -> dict[int, list[Item]] | None:
    """What each unit does; None where symbols decide that."""
    found: dict[int, list[Item]] = {}
    for lane in phase.lanes:
        if not isinstance(lane.units, Const) or not all(isinstance(x, Task | Wait | Signal) for x in lane.items):
            return None
        for unit in range(lane.first, lane.first + int(lane.units.value)):
            found[unit] = [on_unit(x, const(unit)) for x in lane.items]
    return found


def on_unit(item: Item, unit: Expr) -> Item:
    """An item, no control, as another unit does it in the place of this one."""
    known = {UNIT: unit}
    match item:
        case Task():
            first, count, stride = (substitute(x, known) for x in (item.first, item.count, item.stride))
            return attrs.evolve(item, first=first, count=count, stride=stride)
        case Copy():
            return attrs.evolve(item, part=substitute(item.part, known))
        case Set():
            return item
        case Wait():
            return Wait(item.event, substitute(item.index, known), substitute(item.target, known))
        case Signal():
            return Signal(item.event, substitute(item.index, known))
    return item


def _key(item: Signal | Wait) -> Key:
    return item.event, int(evaluate(item.index, {}))


def _cut(lists: dict[int, list[Item]]) -> list[Phase] | None:
    """The phases of units' lists; None where a wait is for less than all signals, or never met."""
    missing: dict[Key, int] = {}
    for signal in (x for items in lists.values() for x in items if isinstance(x, Signal)):
        missing[_key(signal)] = missing.get(_key(signal), 0) + 1
    sent = dict(missing)
    last: dict[Key, dict[int, int]] = {}
    at, level = dict.fromkeys(lists, 0), dict.fromkeys(lists, 0)
    phases: list[dict[int, list[Item]]] = []
    moved = True
    while moved:
        moved = False
        for unit, items in lists.items():
            while at[unit] < len(items):
                item = items[at[unit]]
                if isinstance(item, Wait):
                    key, target = _key(item), int(evaluate(item.target, {}))
                    if target > 0 and target != sent.get(key, 0):
                        return None
                    if missing.get(key, 0):
                        break
                    others = [x + 1 for u, x in last.get(key, {}).items() if u != unit]
                    level[unit] = max(level[unit], *others, 0)
                elif isinstance(item, Signal):
                    missing[_key(item)] -= 1
                    last.setdefault(_key(item), {})[unit] = level[unit]
                else:
                    phases += [{} for _ in range(level[unit] + 1 - len(phases))]
                    phases[level[unit]].setdefault(unit, []).append(item)
                at[unit] += 1
                moved = True
    if any(at[unit] < len(items) for unit, items in lists.items()):
        return None
    return [Phase(tuple(Lane(u, const(1), tuple(x)) for u, x in sorted(phase.items()))) for phase in phases if phase]


def folded(phase: Phase, units: int) -> Phase:
    """A phase of a launch of more units on fewer, which take turns."""
    fits = all(isinstance(x.units, Const) and x.first + int(x.units.value) <= units for x in phase.lanes)
    if fits:
        return phase
    lists: dict[int, list[Item]] = {}
    for unit, items in unit_lists(phase.lanes):
        lists.setdefault(unit % units, []).extend(on_unit(x, const(unit)) for x in items)
    return Phase(tuple(Lane(u, const(1), tuple(x)) for u, x in sorted(lists.items())))


def unit_lists(lanes: Iterable[Lane]) -> Iterator[tuple[int, Sequence[Item]]]:
    """Each unit of lanes of known sizes, and what it does."""
    for lane in lanes:
        assert isinstance(lane.units, Const)
        for unit in range(lane.first, lane.first + int(lane.units.value)):
            yield unit, lane.items
