"""What one unit does in a phase and need not do one after the other, on units that have nothing else to do in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from tilewright.ir.expr import Const, const, variables
from tilewright.ir.program import UNIT, Copy, GridControl, Item, Lane, Part, Phase, Set, Task
from tilewright_grinder.placement.barriers import Kernels, clash, uses_of


def relieved(parts: Sequence[Part], kernels: Kernels, units: int) -> tuple[Part, ...]:
    """The parts of a launch of so many units, where idle units take over from busy ones."""
    made: list[Part] = []
    for part in parts:
        if isinstance(part, Phase):
            made.append(_relieved(part, kernels, units))
        elif isinstance(part, GridControl):
            body, orelse = (relieved(x, kernels, units) for x in (part.body, part.orelse))
            made.append(attrs.evolve(part, body=body, orelse=orelse))
        else:
            made.append(part)
    return tuple(made)


def _relieved(phase: Phase, kernels: Kernels, units: int) -> Phase:
    if not phase.fixed:
        return phase
    taken = {unit for lane in phase.lanes for unit in _units(lane)}
    idle = [unit for unit in range(units) if unit not in taken]
    lanes: list[Lane] = []
    for lane in phase.lanes:
        first, *others = _independent(lane, kernels) if lane.units == const(1) else [list(lane.items)]
        kept = [first]
        for items in others:
            if idle and all(map(_moves, items)):
                lanes.append(Lane(idle.pop(), const(1), tuple(items)))
            else:
                kept.append(items)
        mine = {id(x) for items in kept for x in items}
        lanes.append(attrs.evolve(lane, items=tuple(x for x in lane.items if id(x) in mine)))
    return Phase(tuple(sorted(lanes, key=lambda x: x.first)))


def _units(lane: Lane) -> Iterator[int]:
    assert isinstance(lane.units, Const)
    yield from range(lane.first, lane.first + int(lane.units.value))


def _independent(lane: Lane, kernels: Kernels) -> list[list[Item]]:
    """The items of a unit in sets, in their order: those that need the order which they have are in one."""
    uses = [uses_of(Phase((attrs.evolve(lane, items=(x,)),)), kernels) for x in lane.items]
    sets: list[list[int]] = []
    for number, mine in enumerate(uses):
        near = [x for x in sets if any(clash(uses[i], mine)[0] for i in x)]
        sets = [x for x in sets if x not in near] + [[*(i for x in near for i in x), number]]
    return [[lane.items[i] for i in sorted(x)] for x in sorted(sets, key=min)] or [[]]


def _moves(item: Item) -> bool:
    """Whether another unit can do it as it is."""
    match item:
        case Set():
            return True
        case Copy():
            return item.parts == 1
        case Task():
            return item.near is None and UNIT not in variables(item.first, item.count, item.stride)
    return False
