"""Homes: units that keep the slices of weights that an rTask reads in memory of their own, from its first run on.

The paper's rTasks read what a vEU has loaded once in later steps, too. Slices stay to the end of the launch, so a unit
takes in those that are used again as long as it has room, and nothing ever makes way. Where it has no room for all
slices of a task, it takes the first ones.

Slices that are not kept can be fetched ahead while a unit waits for a task's other operands. They stand behind those
that are kept, each task's over those of the one before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence

import attrs

from tilewright.ir.program import Near
from tilewright.planning import own
from tilewright.planning.own import STEP, Slices
from tilewright_rammer.operators import ROperator


def slices_of(operator: ROperator) -> Slices:
    """What the tasks of an operator read in slices; operators with the same have the same homes."""
    return own.slices_of(operator.planned.kernel, operator.planned.args)


@attrs.frozen
class Room:
    """Bytes that each unit has for slices.

    Args:
        kept: of those that are used again.
        ahead: behind them, of those of the next tasks.
    """

    kept: int = 0
    ahead: int = 0


NO_ROOM = Room()


def divided(left: int, operators: Sequence[ROperator], units: int, *, keep: bool, ahead: bool) -> Room:
    """What a unit does with the memory that is left to it: room for the tasks of one operator, the rest to keep."""
    most = max((x.choice.slice_bytes(len(x.choice.slices)) * -(-x.tasks // units) for x in operators), default=0)
    next_ones = min(-(-most // STEP) * STEP, left // 2 if keep else left) // STEP * STEP if ahead else 0
    return Room(left - next_ones if keep else 0, next_ones)


class Homes:
    """Who keeps what.

    Args:
        operators: of the launch, in the order of their numbers.
        units: how many there are.
        room: what each of them has.
    """

    def __init__(self, operators: Sequence[ROperator], units: int, room: Room) -> None:
        self._slices = [slices_of(x) for x in operators]
        self._sizes = [[x.choice.slice_bytes(n) for n in range(len(x.choice.slices) + 1)] for x in operators]
        self._left = Counter(self._slices)
        self.room = room
        self._free = [room.kept] * units
        self._at: dict[tuple[Slices, int, int], dict[int, Near]] = {}

    def of(self, operator: ROperator, first: int, count: int) -> Mapping[int, Near]:
        """The units that keep slices of some tasks, and which, and where in their memory."""
        return self._at.get((self._slices[operator.number], first, count), {})

    def free(self, unit: int) -> int:
        """Bytes that a unit can still take in."""
        return self._free[unit]

    def fitting(self, unit: int, operator: ROperator, count: int) -> int:
        """Of how many of its slices, the first ones, a unit has room for those of some tasks."""
        return bisect_right(self._sizes[operator.number], self._free[unit] // count) - 1

    def again(self, operator: ROperator) -> int:
        """How many operators besides this one, which is not placed yet, are still to read the same slices."""
        slices = self._slices[operator.number]
        return self._left[slices] - 1 if slices else 0

    def bring(
        self, unit: int, operator: ROperator, first: int, count: int, *, waits: bool = False
    ) -> tuple[Near | None, bool]:
        """The slices that are near a unit when it runs some tasks, and whether they are fetched first.

        Args:
            waits: whether the unit has to wait before it runs them.
        """
        homes = self.of(operator, first, count)
        if unit in homes:
            return homes[unit], False
        fitting = self.fitting(unit, operator, count)
        if homes or not fitting or self.again(operator) < 1:
            next_ones = bisect_right(self._sizes[operator.number], self.room.ahead // count) - 1
            return (Near(self.room.kept, next_ones), True) if waits and next_ones else (None, False)
        near = Near(self.room.kept - self._free[unit], fitting)
        self._at.setdefault((self._slices[operator.number], first, count), {})[unit] = near
        self._free[unit] -= operator.choice.slice_bytes(fitting) * count
        return near, True

    def placed(self, operator: ROperator) -> None:
        """An operator has been placed."""
        self._left[self._slices[operator.number]] -= 1
