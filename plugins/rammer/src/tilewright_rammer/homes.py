"""Homes: units that keep the slices of weights that an rTask reads in memory of their own, from its first run on.

The paper's rTasks read what a vEU has loaded once in later steps, too. Slices stay to the end of the launch, so a unit
takes in those that are used again as long as it has room, and nothing ever makes way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tilewright.device import DeviceModel
from tilewright.ir.program import Envelope
from tilewright_rammer.operators import ROperator

_STEP = 1024
"""Bytes that a unit's memory is counted in."""

Slices = tuple[tuple[str, int, int], ...]
"""Of each slice of an operator's tasks the weight, the first byte of task 0 and the bytes of each task."""


def slices_of(operator: ROperator) -> Slices:
    """What the tasks of an operator read in slices; operators with the same have the same homes."""
    kernel, args = operator.planned.kernel, operator.planned.args
    parts = zip(kernel.sliced, kernel.choice.slices, strict=True)
    return tuple((args[number], x.first, x.bytes) for number, x in parts)


def room(envelope: Envelope, device: DeviceModel) -> int:
    """Bytes that each unit of a launch can keep while all of them still are at work at once."""
    if device.kind != "cuda":
        return 0
    low, high = 0, max(device.shared_per_block - envelope.own_offset, 0) // _STEP
    while low < high:
        middle = (low + high + 1) // 2
        block = envelope.own_offset + middle * _STEP
        fits = device.blocks_together(envelope.threads, envelope.registers, block) >= envelope.units
        low, high = (middle, high) if fits else (low, middle - 1)
    return low * _STEP


class Homes:
    """Who keeps what.

    Args:
        operators: of the launch, in the order of their numbers.
        units: how many there are.
        room: bytes that each of them can keep.
    """

    def __init__(self, operators: Sequence[ROperator], units: int, room: int) -> None:
        self._slices = [slices_of(x) for x in operators]
        self._left = Counter(self._slices)
        self._room = room
        self._free = [room] * units
        self._at: dict[tuple[Slices, int, int], dict[int, int]] = {}

    def of(self, operator: ROperator, first: int, count: int) -> Mapping[int, int]:
        """The units that keep the slices of some tasks, and where in their memory."""
        return self._at.get((self._slices[operator.number], first, count), {})

    def free(self, unit: int) -> int:
        """Bytes that a unit can still take in."""
        return self._free[unit]

    def bytes(self, operator: ROperator, count: int) -> int:
        """Bytes of the slices of some tasks."""
        return operator.choice.slice_bytes * count

    def again(self, operator: ROperator) -> int:
        """How many operators that are not placed yet read the slices of this one, which is none of them."""
        slices = self._slices[operator.number]
        return self._left[slices] - 1 if slices else 0

    def bring(self, unit: int, operator: ROperator, first: int, count: int) -> tuple[int | None, bool]:
        """Where the slices of tasks that a unit runs are near it, if they are, and whether they are fetched first."""
        homes, size = self.of(operator, first, count), self.bytes(operator, count)
        if unit in homes:
            return homes[unit], False
        if not size or self.again(operator) < 1 or size > self._free[unit]:
            return None, False
        key = (self._slices[operator.number], first, count)
        at = self._room - self._free[unit]
        self._at.setdefault(key, {})[unit] = at
        self._free[unit] -= size
        return at, True

    def placed(self, operator: ROperator) -> None:
        """An operator has been placed."""
        self._left[self._slices[operator.number]] -= 1
