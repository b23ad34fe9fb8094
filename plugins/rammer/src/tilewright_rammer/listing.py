"""List scheduling: rTasks go where they can begin first, the most urgent operator first, with waits from task to task.

In place of the paper's barriers after each wavefront, a unit waits for the operators that it needs, and only where
another unit runs tasks of them that it does not already know to be done.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import numpy.typing as npt

from tilewright_rammer.homes import NO_ROOM, Homes, Room
from tilewright_rammer.memory import Levels, Memory
from tilewright_rammer.operators import ROperator
from tilewright_rammer.plan import RProgram, Run, shares
from tilewright_rammer.priority import urgency
from tilewright_rammer.vdevice import VDevice

Clock = npt.NDArray[np.int32]


@attrs.define
class _Unit:
    """A vEU while it is being filled.

    Args:
        known: by unit, how many runs of it are known to be done.
    """

    number: int
    known: Clock
    free: float = 0.0
    runs: list[Run] = attrs.field(factory=list)


@attrs.define
class _Done:
    """An operator that has been placed.

    Args:
        ends: by unit the number of its runs when its tasks of the operator are done; 0 for one that has none.
        clock: what is known to be done once all of them have signalled.
        only: number of the unit, if one alone runs all tasks; else -1.
        at: predicted seconds of its end.
        seen: when another unit knows of it.
    """

    ends: Clock
    clock: Clock
    only: int
    at: float
    seen: float


def listed(operators: Sequence[ROperator], device: VDevice, levels: Levels, room: Room = NO_ROOM) -> RProgram:
    """One part in which units wait for what they need.

    Args:
        room: for weights that each unit keeps, or fetches ahead.
    """
    units = [_Unit(i, np.zeros(device.units, np.int32)) for i in range(device.units)]
    first_come = urgency(operators, device)
    missing = [len(x.before) for x in operators]
    after: list[list[int]] = [[] for _ in operators]
    for operator in operators:
        for earlier in operator.before:
            after[earlier].append(operator.number)
    done: dict[int, _Done] = {}
    homes = Homes(operators, device.units, room)
    memory = Memory(levels, device.units, homes)
    ready = _Ready(first_come, levels.own_bytes > 0)
    for operator in operators:
        if not operator.before:
            ready.add(operator)
    while ready:
        operator = ready.take()
        done[operator.number] = _place(operator, units, done, device, memory, homes)
        for number in after[operator.number]:
            missing[number] -= 1
            if not missing[number]:
                ready.add(operators[number])
    end = max(*(x.free for x in units), memory.work)
    return RProgram((tuple(tuple(x.runs) for x in units),), end + device.start)


class _Ready:
    """The operators that may begin: the most urgent one comes first.

    Where caches keep weights, those whose weights were used last come before all others, as long as there are any. An
    operator without weights counts to those of what it needs: in a recurrence it stands between two uses of them.
    """

    def __init__(self, urgency: Sequence[float], keeps: bool) -> None:
        self._urgency = urgency
        self._keeps = keeps
        self._keys: dict[int, tuple[str, ...]] = {}
        self._heaps: dict[tuple[str, ...], list[tuple[float, int, ROperator]]] = {}
        self._order: list[tuple[float, int, tuple[str, ...]]] = []
        self._last: tuple[str, ...] = ()
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, operator: ROperator) -> None:
        """One more."""
        before = max(operator.before, default=-1)
        key = (tuple(operator.weights) or self._keys.get(before, ())) if self._keeps else ()
        self._keys[operator.number] = key
        entry = (-self._urgency[operator.number], operator.number, operator)
        heapq.heappush(self._heaps.setdefault(key, []), entry)
        heapq.heappush(self._order, (*entry[:2], key))
        self._count += 1

    def take(self) -> ROperator:
        """The next one."""
        self._count -= 1
        if self._last and self._heaps.get(self._last):
            return heapq.heappop(self._heaps[self._last])[2]
        while True:
            _, number, key = heapq.heappop(self._order)
            heap = self._heaps[key]
            if heap and heap[0][1] == number:
                if key:
                    self._last = key
                return heapq.heappop(heap)[2]


def _place(
    operator: ROperator, units: Sequence[_Unit], done: dict[int, _Done], device: VDevice, memory: Memory, homes: Homes
) -> _Done:
    """Puts the operator's tasks where they can begin first, and where their weights are."""
    parts = shares(operator.tasks, len(units))
    chosen = _units_for(operator, parts, units, [done[x] for x in operator.before], device, memory, homes)
    begun = [_begin(unit, operator, done) for unit in chosen]
    near = sum(memory.holds(u.number, operator, *part) for u, part in zip(chosen, parts, strict=True))
    took = [memory.seconds(u.number, operator, *part) for u, part in zip(chosen, parts, strict=True)]
    memory.fetch(operator, near)
    ends, clock = (np.zeros(len(units), np.int32) for _ in range(2))
    for (first, count), unit, (start, waits), seconds in zip(parts, chosen, begun, took, strict=True):
        memory.use(unit.number, operator, first, count)
        unit.free = start + seconds
        place, fetches = homes.bring(unit.number, operator, first, count, waits=bool(waits))
        unit.runs.append(Run(operator, first, count, start, unit.free, waits, place, fetches))
        unit.known[unit.number] = ends[unit.number] = len(unit.runs)
        np.maximum(clock, unit.known, out=clock)
    homes.placed(operator)
    at = max(x.free for x in chosen)
    only = chosen[0].number if len(chosen) == 1 else -1
    return _Done(ends, clock, only, at, at + device.met(len(chosen)))


def _units_for(
    operator: ROperator,
    parts: Sequence[tuple[int, int]],
    units: Sequence[_Unit],
    needed: Sequence[_Done],
    device: VDevice,
    memory: Memory,
    homes: Homes,
) -> list[_Unit]:
    """A unit for each part, which is predicted to be done with it first."""
    if len(parts) == len(units):
        return list(units)
    begin = {u.number: max(u.free, _ready(u, needed)) for u in units}
    left = sorted(units, key=lambda u: (begin[u.number], u.number))
    if operator.choice.slices and homes.room.kept:
        return _at_home(operator, parts, left, begin, memory, homes)
    if not memory.keeps:
        return left[: len(parts)]
    chosen: list[_Unit] = []
    for part in parts:
        best = min(left, key=lambda u: begin[u.number] + memory.seconds(u.number, operator, *part))
        left.remove(best)
        chosen.append(best)
    return chosen


def _at_home(
    operator: ROperator,
    parts: Sequence[tuple[int, int]],
    order: Sequence[_Unit],
    begin: Mapping[int, float],
    memory: Memory,
    homes: Homes,
) -> list[_Unit]:
    """A unit for each part: its home, a new home if it is used again, or else the unit that can begin first.

    Tasks wait for their home as long as one of them takes: who took its place would have to wait in turn.

    Args:
        order: the units, by when they can begin.
        begin: by the number of a unit.
    """
    free = {x.number: x for x in order}
    chosen: list[_Unit] = []
    for part in parts:
        best = next(iter(free.values()))
        known = homes.of(operator, *part)
        here = [free[x] for x in known if x in free]
        if not known and homes.again(operator) > 0:
            fitting = {x.number: homes.fitting(x.number, operator, part[1]) for x in free.values()}
            most = max(fitting.values())
            here = [x for x in free.values() if fitting[x.number] == most > 0]
        if here:
            home = min(here, key=lambda x: (begin[x.number], -homes.free(x.number)))
            best = home if begin[home.number] <= begin[best.number] + operator.seconds * part[1] else best
        chosen.append(free.pop(best.number))
    return chosen


def _ready(unit: _Unit, needed: Sequence[_Done]) -> float:
    """When a unit knows that all that an operator needs is done."""
    return max((x.at if x.only == unit.number else x.seen for x in needed), default=0.0)


def _begin(unit: _Unit, operator: ROperator, done: dict[int, _Done]) -> tuple[float, tuple[int, ...]]:
    """When a unit can begin with an operator, and what it waits for; it then knows what these knew."""
    waits: list[int] = []
    start = unit.free
    for number in sorted(operator.before, key=lambda x: -done[x].at):
        other = done[number]
        if (unit.known >= other.ends).all():
            continue
        waits.append(number)
        start = max(start, other.seen)
        np.maximum(unit.known, other.clock, out=unit.known)
    return start, tuple(waits)
