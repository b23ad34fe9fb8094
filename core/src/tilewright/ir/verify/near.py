"""Laws of what units keep in memory of their own: tasks read there what was fetched, and nothing else.

What is fetched is constant, so nothing races: it is enough to follow what each unit does, in its order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tilewright.ir.expr import variables
from tilewright.ir.program import UNIT, BlockControl, Envelope, Fetch, GridControl, Kernel, Near, Program, Task
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.tree import item_leaves, leaves
from tilewright.ir.verify.unroll import Event

FETCHES = (
    "a unit fetches whole pieces of 16 bytes of a weight into its own memory, in no loop and under no condition of its "
    "launch, and which they are depends on nothing but the unit"
)
NEAR = (
    "a task reads near what its unit fetched there before, whole slices, and nothing was fetched over it since; which "
    "task it is depends on nothing but the unit"
)
STEP = 16
"""Bytes of a piece."""


@attrs.frozen
class Part:
    """Bytes `first` to `first + bytes` of a weight, from `offset` on in a unit's own memory."""

    offset: int
    bytes: int
    source: str
    first: int

    def until(self, offset: int) -> Part:
        """What of it stands in front of an offset."""
        return attrs.evolve(self, bytes=min(max(offset - self.offset, 0), self.bytes))

    def since(self, offset: int) -> Part:
        """What of it stands from an offset on."""
        gone = min(max(offset - self.offset, 0), self.bytes)
        return Part(self.offset + gone, self.bytes - gone, self.source, self.first + gone)


def check_control(control: GridControl | BlockControl, place: Place) -> None:
    """Refuses fetches in a loop or a branch."""
    inside = (*control.body, *control.orelse)
    found = item_leaves(inside) if isinstance(control, BlockControl) else leaves(inside)
    fetch = next((x for x in found if isinstance(x, Fetch)), None)
    if fetch is not None:
        raise place.broken(FETCHES, f"{fetch.source!r} is fetched there")


class Held:
    """What stands in the units' own memory while a launch runs.

    Args:
        envelope: of the launch.
    """

    def __init__(self, program: Program, envelope: Envelope) -> None:
        self._program = program
        self._bytes = envelope.own_bytes
        self._weights = frozenset(program.weights)
        self._units: dict[int, list[Part]] = {}

    def run(self, units: Mapping[int, Sequence[Event]], place: Place) -> None:
        """Follows what the units do in a phase."""
        for unit, events in units.items():
            there = place.at(f"unit {unit}")
            for event in events:
                if isinstance(event.item, Fetch):
                    self._fetch(unit, event.item, event.first, there)
                elif isinstance(event.item, Task) and event.item.near is not None:
                    self._read(unit, event.item, event.item.near, event.tasks, there)

    def _fetch(self, unit: int, fetch: Fetch, first: int, place: Place) -> None:
        if variables(fetch.first) - {UNIT}:
            raise place.broken(FETCHES, f"{fetch.source!r} is fetched from byte {fetch.first!r} on")
        size = self._program.storage.placements[fetch.source].bytes if fetch.source in self._weights else 0
        if first < 0 or fetch.bytes < 0 or first + fetch.bytes > size:
            raise place.broken(FETCHES, f"bytes {first} to {first + fetch.bytes} of {fetch.source!r}, which has {size}")
        if first % STEP or fetch.bytes % STEP or fetch.offset % STEP:
            raise place.broken(FETCHES, f"{fetch.bytes} bytes from byte {first} of {fetch.source!r} at {fetch.offset}")
        if fetch.offset < 0 or fetch.offset + fetch.bytes > self._bytes:
            found = f"bytes {fetch.offset} to {fetch.offset + fetch.bytes} of the {self._bytes} that a unit has"
            raise place.broken(FETCHES, found)
        end = fetch.offset + fetch.bytes
        kept = [rest for x in self._units.get(unit, ()) for rest in (x.until(fetch.offset), x.since(end)) if rest.bytes]
        self._units[unit] = [*kept, Part(fetch.offset, fetch.bytes, fetch.source, first)]

    def _read(self, unit: int, task: Task, near: Near, tasks: range, place: Place) -> None:
        kernel = self._program.kernels[task.kernel]
        if not 0 < near.count <= len(kernel.choice.slices) or variables(task.first, task.count, task.stride) - {UNIT}:
            found = f"task {task.first!r} of {task.kernel} reads {near.count} slices near"
            raise place.broken(NEAR, f"{found}, it has {len(kernel.choice.slices)}")
        for position, number in enumerate(tasks):
            offset = near.offset + position * kernel.choice.slice_bytes(near.count)
            for part in parts_of(kernel, task.args, number, Near(offset, near.count)):
                if not self._holds(unit, part):
                    found = f"task {number} of {task.kernel} reads bytes {part.first} to {part.first + part.bytes}"
                    raise place.broken(NEAR, f"{found} of {part.source!r}, which do not stand at byte {part.offset}")

    def _holds(self, unit: int, part: Part) -> bool:
        """Whether all bytes of a part stand where it says, as one fetch or several have brought them."""
        at = part.offset
        while at < part.offset + part.bytes:
            here = (x for x in self._units.get(unit, ()) if x.offset <= at < x.offset + x.bytes)
            found = next(here, None)
            if found is None or found.source != part.source or found.first - found.offset != part.first - part.offset:
                return False
            at = found.offset + found.bytes
        return True


def parts_of(kernel: Kernel, args: Sequence[str], task: int, near: Near) -> list[Part]:
    """What a task reads near, whose slices stand at an offset of their own."""
    found, offset = [], near.offset
    for number, piece in list(zip(kernel.sliced, kernel.choice.slices, strict=True))[: near.count]:
        first, size = piece.part(task)
        found.append(Part(offset, size, args[number], first))
        offset += piece.bytes
    return found
