"""The law of values that share bytes inside one launch: one is over before the other begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs
import numpy as np

from tilewright.ir.program import Placement, Program
from tilewright.ir.verify.clocks import Numbers, PhaseOrder
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.unroll import Acting, call_of

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
            if isinstance(event.item, Acting) and event.tasks:
                for name in call_of(event.item).args:
                    values.setdefault(name, []).append(i)
        return cls(values, order)


def in_one_launch(a: Placement, b: Placement, together: frozenset[int]) -> bool:
    """Whether two values live in one and the same launch, whose order says whether they may share bytes.

    Args:
        together: numbers of the steps that are launches of units that wait for each other.
    """
    return a.first == a.last == b.first == b.last and a.first in together


def shared(placements: Iterable[Placement]) -> bool:
    """Whether two of some values that live in one launch share bytes."""
    reached: dict[str, int] = {}
    for one in sorted({x for x in placements if x.first == x.last and x.bytes}, key=lambda x: x.offset):
        if one.offset < reached.get(one.buffer, 0):
            return True
        reached[one.buffer] = max(reached.get(one.buffer, 0), one.offset + one.bytes)
    return False


def check_turns(program: Program, phases: Sequence[Used], place: Place) -> None:
    """Refuses two values that share bytes in a launch while both are alive.

    Args:
        phases: what each phase touches, in the order in which they run; a phase of a loop once for each trip.
    """
    lives: dict[str, _Life] = {}
    for number, phase in enumerate(phases):
        for name, events in phase.values.items():
            if program.storage.placements[name].first == program.storage.placements[name].last:
                life = lives.setdefault(name, _Life(program.storage.placements[name], number))
                life.add(number, phase, events)
    buffers: dict[str, list[_Life]] = {}
    for life in lives.values():
        if life.placement.bytes:
            buffers.setdefault(life.placement.buffer, []).append(life)
    for held in buffers.values():
        for a, b in _alive_together(sorted(held, key=lambda x: (x.placement.offset, x.placement.value.name))):
            x, y = a.placement, b.placement
            found = f"{x.value.name!r} and {y.value.name!r} share byte {max(x.offset, y.offset)} of {x.buffer!r}"
            raise place.broken(TURNS, found)


@attrs.define
class _Life:
    """When a value is alive.

    Attributes:
        first, last: numbers of the phases of its first and last use.
        born: of each unit how many events surely happen before its uses in the first phase; None if that is not known.
        gone: of each unit how many events end with its uses in the last phase.
    """

    placement: Placement
    first: int
    last: int = 0
    born: Numbers | None = None
    gone: Numbers | None = None

    def add(self, number: int, phase: Used, events: Sequence[int]) -> None:
        """Its uses in one more phase."""
        self.last = number
        born, self.gone = phase.order.span(events) if phase.order is not None else (None, None)
        if number == self.first:
            self.born = born

    def over(self, later: _Life) -> bool:
        """Whether it is over before another value's first use."""
        if self.last != later.first:
            return self.last < later.first
        return self.gone is not None and later.born is not None and bool((self.gone <= later.born).all())


def _alive_together(lives: Sequence[_Life]) -> Iterator[tuple[_Life, _Life]]:
    """Pairs that share bytes of a buffer, neither of which is over before the other.

    Args:
        lives: by offset.
    """
    ends = np.asarray([x.placement.offset + x.placement.bytes for x in lives])
    first, last = (np.asarray([getattr(x, name) for x in lives]) for name in ("first", "last"))
    known = [x.born is not None and x.gone is not None for x in lives]
    one = bool(lives) and all(known) and bool((first == last).all() and (first == first[0]).all())
    born, gone = (np.stack([getattr(x, name) for x in lives]) if one else None for name in ("born", "gone"))
    for i, b in enumerate(lives):
        shared = np.flatnonzero(ends[:i] > b.placement.offset)
        if born is not None and gone is not None:  # all in one phase: thousands of values in an unrolled recurrence
            before = (gone[shared] <= born[i]).all(axis=1) | (gone[i] <= born[shared]).all(axis=1)
        else:
            before = (last[shared] < first[i]) | (last[i] < first[shared])
        yield from ((a, b) for k in shared[~before] if not ((a := lives[k]).over(b) or b.over(a)))
