"""The law of values that share bytes inside one launch: one is over before the other begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from tilewright.ir.program import Placement, Program, Task
from tilewright.ir.verify.clocks import PhaseOrder
from tilewright.ir.verify.laws import Place

TURNS = "values of one launch that share bytes are alive one after the other, by barriers, program order or waits"


@attrs.frozen
class Used:
    """What a phase of a launch touches.

    Args:
        values: the numbers of the events that touch a value, by its name.
        order: of the events; None where nothing in the phase can race.
    """

    values: Mapping[str, Sequence[int]]
    order: PhaseOrder | None = None

    @classmethod
    def of(cls, order: PhaseOrder) -> Used:
        """What the events of a phase touch."""
        values: dict[str, list[int]] = {}
        for i, event in enumerate(order.events):
            if isinstance(event.item, Task) and event.tasks:
                for name in event.item.args:
                    values.setdefault(name, []).append(i)
        return cls(values, order)


def in_one_launch(a: Placement, b: Placement, together: frozenset[int]) -> bool:
    """Whether two values live in one and the same launch, whose order says whether they may share bytes.

    Args:
        together: numbers of the steps that are launches of units that wait for each other.
    """
    return a.first == a.last == b.first == b.last and a.first in together


def check_turns(program: Program, phases: Sequence[Used], place: Place) -> None:
    """Refuses two values that share bytes in a launch while both are alive.

    Args:
        phases: what each phase touches, in the order in which they run; a phase of a loop once for each trip.
    """
    where: dict[str, list[int]] = {}
    for number, phase in enumerate(phases):
        for name in phase.values:
            where.setdefault(name, []).append(number)
    placements = [p for name in where if (p := program.storage.placements[name]).first == p.last]
    for a, b in _sharing(placements):
        x, y = a.value.name, b.value.name
        if not (_over(x, y, where, phases) or _over(y, x, where, phases)):
            raise place.broken(TURNS, f"{x!r} and {y!r} share byte {max(a.offset, b.offset)} of {a.buffer!r}")


def _sharing(placements: Sequence[Placement]) -> Iterator[tuple[Placement, Placement]]:
    buffers: dict[str, list[Placement]] = {}
    for placement in placements:
        if placement.bytes:
            buffers.setdefault(placement.buffer, []).append(placement)
    for held in buffers.values():
        active: list[Placement] = []
        for b in sorted(held, key=lambda x: (x.offset, x.value.name)):
            active = [a for a in active if a.offset + a.bytes > b.offset]
            yield from ((a, b) for a in active)
            active.append(b)


def _over(a: str, b: str, where: Mapping[str, Sequence[int]], phases: Sequence[Used]) -> bool:
    """Whether the last use of a value comes before the first of another."""
    last, first = where[a][-1], where[b][0]
    if last != first:
        return last < first
    order = phases[last].order
    return order is not None and order.all_before(phases[last].values[a], phases[first].values[b])
