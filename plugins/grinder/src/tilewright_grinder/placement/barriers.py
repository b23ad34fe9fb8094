"""Barriers where values cross units, and nowhere else.

A phase joins an earlier one when nothing that it touches crosses units between them: then program order is enough. What
all units decide by must not be written before all of them have read it: where that could be, an empty phase stands
between. Around a call of a procedure there are barriers, which one unit that makes all copies does not need.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from tilewright.ir.expr import Const, const
from tilewright.ir.program import GridCall, GridControl, Item, Kernel, Lane, Part, Phase
from tilewright.ir.verify.calls import by_first
from tilewright.ir.verify.tree import (
    conditions_of,
    decides,
    first_phases,
    operands,
    work_of,
)

EMPTY = Phase(())
"""A barrier and nothing else."""

Kernels = Mapping[str, Kernel]


@attrs.define
class Use:
    """Units that read and that write a value; None stands for units of which not all are known."""

    reads: set[int | None] = attrs.field(factory=set)
    writes: set[int | None] = attrs.field(factory=set)

    @property
    def all(self) -> set[int | None]:
        return self.reads | self.writes


def uses_of(phase: Phase, kernels: Kernels) -> dict[str, Use]:
    """Which units read and write what in a phase."""
    found: dict[str, Use] = {}
    for lane in phase.lanes:
        one = isinstance(lane.units, Const) and int(lane.units.value) == 1
        unit = lane.first if one else None
        part = Phase((lane,))
        for name in conditions_of((part,)):
            found.setdefault(name, Use()).reads.add(unit)
        for work in work_of((part,)):
            for name, write in operands(work, kernels):
                use = found.setdefault(name, Use())
                (use.writes if write else use.reads).add(unit)
    return found


def clash(first: Mapping[str, Use], second: Mapping[str, Use]) -> tuple[bool, bool]:
    """Whether two phases touch a value of which one writes it; and whether that crosses units."""
    any_of, across = False, False
    for name in first.keys() & second.keys():
        a, b = first[name], second[name]
        if not ((a.writes and b.all) or (a.reads and b.writes)):
            continue
        any_of = True
        units = a.all | b.all
        across |= None in units or len(units) > 1
    return any_of, across


def joined(parts: Sequence[Part], kernels: Kernels) -> tuple[Part, ...]:
    """The parts with each phase in the earliest one behind the last control that it does not have to follow."""
    made: list[Part] = []
    run: list[tuple[Phase, dict[str, Use]]] = []
    for part in parts:
        if not isinstance(part, Phase):
            made += [x for x, _ in run]
            run = []
            made.append(part)
            continue
        uses = uses_of(part, kernels)
        at = len(run)
        for earlier in range(len(run) - 1, -1, -1):
            touches, across = clash(run[earlier][1], uses)
            if across:
                break
            at = earlier
            if touches:
                break
        if at == len(run):
            run.append((part, uses))
        else:
            both = together(run[at][0], part)
            run[at] = (both, uses_of(both, kernels))
    return (*made, *(x for x, _ in run))


def together(first: Phase, second: Phase) -> Phase:
    """What units do in one phase, and then in another, as one."""
    ends = sorted({x for lane in (*first.lanes, *second.lanes) for x in _ends(lane)})
    lanes: list[Lane] = []
    for low, high in itertools.pairwise(ends):
        items: list[Item] = []
        for lane in (*first.lanes, *second.lanes):
            begin, end = _ends(lane)
            items += lane.items if begin <= low and high <= end else ()
        if items:
            lanes.append(Lane(low, const(high - low), tuple(items)))
    return Phase(tuple(lanes))


def _ends(lane: Lane) -> tuple[int, int]:
    assert isinstance(lane.units, Const)
    return lane.first, lane.first + int(lane.units.value)


def settled(parts: Sequence[Part], kernels: Kernels, following: Sequence[Part] = ()) -> tuple[Part, ...]:
    """The parts with a barrier more wherever what units decide by could be written while some still read it."""
    made: list[Part] = []
    for at, part in enumerate(parts):
        after = (*parts[at + 1 :], *following)
        if not isinstance(part, GridControl):
            made.append(part)
            continue
        names = decides(part)
        body, orelse = (
            (EMPTY, *x) if _writes(first_phases(x), names, kernels) else tuple(x) for x in (part.body, part.orelse)
        )
        looped = attrs.evolve(part, body=body, orelse=orelse)
        behind = (looped, *after) if part.counter else after
        made.append(attrs.evolve(looped, body=settled(body, kernels, behind), orelse=settled(orelse, kernels, after)))
        if _writes(first_phases(after), names, kernels):
            made.append(EMPTY)
    return tuple(made)


def _writes(phases: Iterable[Phase], names: Sequence[str], kernels: Kernels) -> bool:
    return any(write and name in names for work in work_of(phases) for name, write in operands(work, kernels))


def hastened(
    parts: Sequence[Part], kernels: Kernels, small: Callable[[str], bool], direct: Callable[[str], bool]
) -> tuple[Part, ...]:
    """The parts without the barriers that copies of arguments and results do not need, for unit 0 makes them alone.

    Args:
        small: whether it does so with a value.
        direct: whether a procedure begins with a phase of unit 0.
    """
    made: list[Part] = []
    for at, part in enumerate(parts):
        match part:
            case GridControl():
                sides = (hastened(x, kernels, small, direct) for x in (part.body, part.orelse))
                made.append(attrs.evolve(part, body=next(sides), orelse=next(sides)))
            case GridCall():
                before, after = parts[at - 1] if at else None, parts[at + 1] if at + 1 < len(parts) else None
                given, taken = (all(map(small, x)) for x in (part.args, part.results))
                early = given and isinstance(before, Phase) and _alone(before, part.args, kernels, writes=True)
                into = given and direct(part.procedure) and (not early or by_first(before))
                late = taken and isinstance(after, Phase) and _alone(after, part.results, kernels)
                late |= taken and isinstance(after, GridCall) and all(map(small, after.args))
                made.append(attrs.evolve(part, early=early, direct=into, late=late))
            case _:
                made.append(part)
    return tuple(made)


def _alone(phase: Phase, names: Iterable[str], kernels: Kernels, writes: bool = False) -> bool:
    """Whether no other unit than unit 0 touches some values in a phase, or writes them."""
    uses = uses_of(phase, kernels)
    return all((uses[x].writes if writes else uses[x].all) <= {0} for x in names if x in uses)
