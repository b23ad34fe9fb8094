"""The ordering law: within a phase, accesses of different units to the same bytes are ordered by signals and waits.

Phases are ordered by grid barriers and launches by the host, so only units inside one phase can race. What each unit
does is laid out as a list of events; "happens before" is program order plus, for a wait, the signals that must have
come before it could pass:

    A wait passes when its event has been signalled `target` times. The signals that can have come by the time the
    count first reaches the target are those that do not follow a wait on the same event with at least this target.
    If these, without a signal s and what follows s, are fewer than the target, then s came before the wait.

This is applied until nothing changes. It is exact for counters that are waited for in full, and for counters that grow
trip by trip (software barriers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from tilewright.ir.program import Kernel, Placement, Program, Signal, Task, Wait
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.storage import inplace_pairs
from tilewright.ir.verify.unroll import Event

LAW = "every read-after-write, write-after-read and write-after-write pair on storage is ordered by program order, \
wait or barrier"
MET = "every wait is met by signals that can come before it"

Footprint = Callable[[Kernel, int, int], "Sequence[tuple[int, int]] | None"]
"""(kernel, parameter, task) -> half-open element ranges that the task touches, None for all of it."""


def whole(kernel: Kernel, parameter: int, task: int) -> Sequence[tuple[int, int]] | None:
    """The footprint that knows nothing: a task may touch all elements of its operands."""
    return None


@attrs.frozen
class Access:
    """A parameter of a task, and the bytes that its argument stands in."""

    parameter: int
    value: str
    placement: Placement
    write: bool


class PhaseOrder:
    """The happens-before relation of one phase, as bit sets over the numbered events.

    Args:
        counted: how often events were signalled in earlier phases of the launch.
    """

    def __init__(
        self, units: Mapping[int, Sequence[Event]], place: Place, counted: Mapping[tuple[str, int], int] | None = None
    ) -> None:
        self._counted = counted or {}
        self.events = [e for events in units.values() for e in events]
        self._place = place
        self._before = [0] * len(self.events)  # direct predecessors
        position = 0
        for events in units.values():
            for i in range(1, len(events)):
                self._before[position + i] |= 1 << (position + i - 1)
            position += len(events)
        self._check_met(units)
        self._sync()

    def ordered(self, a: int, b: int) -> bool:
        """Whether one of two events happens before the other."""
        return bool((self.earlier[a] >> b | self.earlier[b] >> a) & 1)

    def _check_met(self, units: Mapping[int, Sequence[Event]]) -> None:
        """Runs the units as far as they go; whoever is left waits for ever."""
        counts = dict(self._counted)
        at = dict.fromkeys(units, 0)
        moved = True
        while moved:
            moved = False
            for unit, events in units.items():
                while at[unit] < len(events):
                    event = events[at[unit]]
                    if isinstance(event.item, Wait) and counts.get(event.key, 0) < event.target:
                        break
                    if isinstance(event.item, Signal):
                        counts[event.key] = counts.get(event.key, 0) + 1
                    at[unit] += 1
                    moved = True
        for unit, events in units.items():
            if at[unit] < len(events):
                stuck = events[at[unit]]
                found = (
                    f"{stuck.key[0]}[{stuck.key[1]}] is signalled {counts.get(stuck.key, 0)} of {stuck.target} times"
                )
                raise self._place.at(f"unit {unit}").broken(MET, found)

    def _sync(self) -> None:
        signals: dict[tuple[str, int], list[int]] = {}
        waits: dict[tuple[tuple[str, int], int], list[int]] = {}
        for i, event in enumerate(self.events):
            if isinstance(event.item, Signal):
                signals.setdefault(event.key, []).append(i)
            elif isinstance(event.item, Wait) and (target := event.target - self._counted.get(event.key, 0)) > 0:
                waits.setdefault((event.key, target), []).append(i)
        changed = True
        while changed:
            self._close()
            changed = False
            for (key, target), waiting in waits.items():
                higher = sum(1 << w for (k, t), ws in waits.items() if k == key and t >= target for w in ws)
                known = self._guaranteed(target, higher, signals.get(key, []))
                for w in waiting:
                    if known & ~self.earlier[w]:
                        self._before[w] |= known
                        changed = True

    def _guaranteed(self, target: int, higher: int, signals: Sequence[int]) -> int:
        """Signals that have come once their event has counted to `target`; `higher` are the waits for that or more."""
        possible = [s for s in signals if not self.earlier[s] & higher]
        if len(possible) == target:
            return sum(1 << s for s in possible)
        found = 0
        for s in possible:
            if sum(1 for x in possible if x != s and not self.earlier[x] >> s & 1) < target:
                found |= 1 << s
        return found

    def _close(self) -> None:
        """`earlier[i]`: everything that happens before event i."""
        self.earlier = [0] * len(self.events)
        done = [False] * len(self.events)
        for start in range(len(self.events)):
            stack = [start]
            while stack:
                i = stack[-1]
                if done[i]:
                    stack.pop()
                    continue
                pending = [p for p in _bits(self._before[i]) if not done[p]]
                if pending:
                    stack += pending
                    continue
                reach = self._before[i]
                for p in _bits(self._before[i]):
                    reach |= self.earlier[p]
                self.earlier[i] = reach
                done[i] = True
                stack.pop()


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def check_phase(
    program: Program,
    units: Mapping[int, Sequence[Event]],
    place: Place,
    footprint: Footprint = whole,
    counted: Mapping[tuple[str, int], int] | None = None,
) -> PhaseOrder:
    """Refuses a phase in which two units may touch the same bytes in either order, one of them writing.

    Args:
        counted: how often events were signalled in earlier phases of the launch.
    """
    order = PhaseOrder(units, place, counted)
    calls: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for i, event in enumerate(order.events):
        if isinstance(event.item, Task) and event.tasks:
            calls.setdefault((event.item.kernel, event.item.args), []).append(i)
    listed = [(program.kernels[name], accesses(program, name, args), nodes) for (name, args), nodes in calls.items()]
    for number, (kernel, mine, nodes) in enumerate(listed):
        _check_same_call(order, kernel, mine, nodes, place)
        for other, theirs, others in listed[number + 1 :]:
            for a, b in conflicts(mine, theirs, program):
                _check_pair(order, (kernel, a, nodes), (other, b, others), place, footprint)
    return order


def accesses(program: Program, kernel: str, args: Sequence[str]) -> list[Access]:
    """What a task of a kernel touches: its inputs are read, its outputs written."""
    outputs = len(program.kernels[kernel].group.outputs)
    placements = program.storage.placements
    return [Access(i, name, placements[name], i >= len(args) - outputs) for i, name in enumerate(args)]


def conflicts(mine: Sequence[Access], theirs: Sequence[Access], program: Program) -> list[tuple[Access, Access]]:
    """Pairs of accesses of two calls to the same bytes, one of them a write."""
    return [(a, b) for a in mine for b in theirs if (a.write or b.write) and share_bytes(a, b, program)]


def share_bytes(a: Access, b: Access, program: Program) -> bool:
    """Whether two units that make these accesses may touch the same bytes."""
    p, q = a.placement, b.placement
    if p.buffer != q.buffer or program.storage.buffers[p.buffer].owner == "unit":
        return False
    return p.offset < q.offset + q.bytes and q.offset < p.offset + p.bytes


def _check_same_call(
    order: PhaseOrder, kernel: Kernel, mine: Sequence[Access], nodes: Sequence[int], place: Place
) -> None:
    """Tasks of one call write disjoint parts; so only a task that runs twice, or an operand written over, can race."""
    owner: dict[int, int] = {}
    for node in nodes:
        for task in order.events[node].tasks:
            other = owner.setdefault(task, node)
            if other != node and not order.ordered(node, other):
                units = f"units {order.events[other].unit} and {order.events[node].unit}"
                raise place.broken(LAW, f"task {task} of {kernel.name} runs on {units}, unordered")
    if len(nodes) > 1:
        check_inplace(kernel, mine, place)


def check_inplace(kernel: Kernel, mine: Sequence[Access], place: Place) -> None:
    """Refuses outputs in the bytes of an input, where the operator does not say that it may be overwritten."""
    names = [x.name for x in kernel.params]
    allowed = set(inplace_pairs(kernel))
    for read in (x for x in mine if not x.write):
        for write in (x for x in mine if x.write):
            p, q = read.placement, write.placement
            same = p.buffer == q.buffer and p.offset < q.offset + q.bytes and q.offset < p.offset + p.bytes
            if same and (names[read.parameter], names[write.parameter]) not in allowed:
                raise place.broken(LAW, f"tasks of {kernel.name} write {write.value!r} over their input {read.value!r}")


def _check_pair(
    order: PhaseOrder,
    mine: tuple[Kernel, Access, Sequence[int]],
    theirs: tuple[Kernel, Access, Sequence[int]],
    place: Place,
    footprint: Footprint,
) -> None:
    kernel, a, nodes = mine
    other, b, others = theirs
    mask = sum(1 << x for x in others)
    for node in nodes:
        event = order.events[node]
        for x in _bits(mask & ~order.earlier[node]):
            unordered = not order.earlier[x] >> node & 1 and order.events[x].unit != event.unit
            if unordered and touch_same(kernel, a, event, other, b, order.events[x], footprint):
                kinds = {(True, True): "two writes", (True, False): "a write and a read"}
                what = kinds.get((a.write, b.write), "a read and a write")
                who = f"{kernel.name} on unit {event.unit} and {other.name} on unit {order.events[x].unit}"
                values = f"{a.value!r}" if a.value == b.value else f"{a.value!r} and {b.value!r} (the same bytes)"
                raise place.broken(LAW, f"{what} of {values}, by {who}, are unordered")


def touch_same(
    kernel: Kernel, a: Access, first: Event, other: Kernel, b: Access, second: Event, footprint: Footprint
) -> bool:
    """Whether two events may touch the same element through these accesses."""
    if a.value != b.value:
        return True  # element ranges of different values say nothing about shared bytes
    for x in first.tasks:
        left = footprint(kernel, a.parameter, x)
        for y in second.tasks:
            right = footprint(other, b.parameter, y)
            if left is None or right is None or any(p < s and r < q for p, q in left for r, s in right):
                return True
    return False
