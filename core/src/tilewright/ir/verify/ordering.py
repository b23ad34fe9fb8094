"""The ordering law: within a phase, accesses of different units to the same bytes are ordered by signals and waits.

Phases are ordered by grid barriers and launches by the host, so only units inside one phase can race. Which event of a
phase happens before which other is `clocks`' affair; here accesses to the same bytes are looked up in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from tilewright.ir.program import Copy, Kernel, Placement, Program, Set, Task
from tilewright.ir.verify.clocks import PhaseOrder
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.storage import inplace_pairs
from tilewright.ir.verify.tree import decides, operands
from tilewright.ir.verify.unroll import Acting, Call, Event, call_of

LAW = "every read-after-write, write-after-read and write-after-write pair on storage is ordered by program order, \
wait or barrier"

Footprint = Callable[[Kernel, int, int], "Sequence[tuple[int, int]] | None"]
"""(kernel, parameter, task) -> half-open element ranges that the task touches, None for all of it."""


def whole(kernel: Kernel, parameter: int, task: int) -> Sequence[tuple[int, int]] | None:
    """The footprint that knows nothing: a task may touch all elements of its operands."""
    return None


@attrs.frozen
class Access:
    """A parameter of a call, and the bytes that its argument stands in."""

    parameter: int
    value: str
    placement: Placement
    write: bool


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
    calls: dict[Call, list[int]] = {}
    items: dict[Call, Acting] = {}
    for i, event in enumerate(order.events):
        if isinstance(event.item, Acting) and event.tasks:
            calls.setdefault(call_of(event.item), []).append(i)
            items.setdefault(call_of(event.item), event.item)
    listed = [(call, accesses(program, items[call]), nodes) for call, nodes in calls.items()]
    for call, mine, nodes in listed:
        _check_same_call(program, order, call, mine, nodes, place)
    for (i, a), (j, b) in conflicting([x for _, x, _ in listed], program):
        call, _, nodes = listed[i]
        other, _, others = listed[j]
        _check_pair(program, order, (call, a, nodes), (other, b, others), place, footprint)
    return order


def accesses(program: Program, item: Acting) -> list[Access]:
    """What an item touches: a task's inputs, a copy's source and what decides are read, the rest is written."""
    placements = program.storage.placements
    if not isinstance(item, Task | Copy | Set):
        return [Access(i, name, placements[name], False) for i, name in enumerate(decides(item))]
    touched = enumerate(operands(item, program.kernels))
    return [Access(i, name, placements[name], write) for i, (name, write) in touched]


Entry = tuple[int, Access]
"""The number of a call, and an access of it."""


def conflicting(calls: Sequence[Sequence[Access]], program: Program) -> Iterator[tuple[Entry, Entry]]:
    """Pairs of accesses of different calls to the same bytes of different units, one of them a write.

    Different values that live in one launch alone are left out where they share bytes: the law of turns is stricter.

    Args:
        calls: the accesses of each.
    """
    values: dict[str, list[Entry]] = {}
    buffers: dict[str, list[Entry]] = {}
    for number, listed in enumerate(calls):
        for access in listed:
            place = access.placement
            if program.storage.buffers[place.buffer].owner == "unit" or not place.bytes:
                continue
            if place.first == place.last:
                values.setdefault(access.value, []).append((number, access))
            else:
                buffers.setdefault(place.buffer, []).append((number, access))
    for group in values.values():
        yield from _pairs(group)
    for group in buffers.values():
        if any(access.write for _, access in group):
            yield from _overlapping(group)


def _pairs(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Entry]]:
    for number, (call, access) in enumerate(entries):
        for other, against in entries[:number]:
            if other != call and (access.write or against.write):
                yield (other, against), (call, access)


def _overlapping(entries: list[Entry]) -> Iterator[tuple[Entry, Entry]]:
    active: list[Entry] = []
    for call, access in sorted(entries, key=lambda x: (x[1].placement.offset, x[0])):
        start = access.placement.offset
        active = [x for x in active if x[1].placement.offset + x[1].placement.bytes > start]
        for other, against in active:
            if other != call and (access.write or against.write):
                yield (other, against), (call, access)
        active.append((call, access))


def _check_same_call(
    program: Program, order: PhaseOrder, call: Call, mine: Sequence[Access], nodes: Sequence[int], place: Place
) -> None:
    """Tasks of one call write disjoint parts; so only a task that runs twice, or an operand written over, can race."""
    if not any(x.write for x in mine):
        return
    owner: dict[int, int] = {}
    for node in nodes:
        for task in order.events[node].tasks:
            other = owner.setdefault(task, node)
            if other != node and len(order.unordered([node], [other])):
                units = f"units {order.events[other].unit} and {order.events[node].unit}"
                raise place.broken(LAW, f"task {task} of {call} runs on {units}, unordered")
    if not call.kernel:
        _check_copy(call, mine, place)
    elif len(nodes) > 1:
        check_inplace(program.kernels[call.name], mine, place)


def _check_copy(call: Call, mine: Sequence[Access], place: Place) -> None:
    for read in (x for x in mine if not x.write):
        for write in (x for x in mine if x.write):
            if same_bytes(read.placement, write.placement):
                raise place.broken(LAW, f"{call} writes over what it reads")


def same_bytes(p: Placement, q: Placement) -> bool:
    """Whether two values share bytes."""
    return p.buffer == q.buffer and p.offset < q.offset + q.bytes and q.offset < p.offset + p.bytes


def check_inplace(kernel: Kernel, mine: Sequence[Access], place: Place) -> None:
    """Refuses outputs in the bytes of an input, where the operator does not say that it may be overwritten."""
    names = [x.name for x in kernel.params]
    allowed = set(inplace_pairs(kernel))
    for read in (x for x in mine if not x.write):
        for write in (x for x in mine if x.write):
            same = same_bytes(read.placement, write.placement)
            if same and (names[read.parameter], names[write.parameter]) not in allowed:
                raise place.broken(LAW, f"tasks of {kernel.name} write {write.value!r} over their input {read.value!r}")


def _check_pair(
    program: Program,
    order: PhaseOrder,
    mine: tuple[Call, Access, Sequence[int]],
    theirs: tuple[Call, Access, Sequence[int]],
    place: Place,
    footprint: Footprint,
) -> None:
    call, a, nodes = mine
    other, b, others = theirs
    for i, j in order.unordered(nodes, others):
        event, against = order.events[nodes[i]], order.events[others[j]]
        if touch_same(program, (call, a, event), (other, b, against), footprint):
            kinds = {(True, True): "two writes", (True, False): "a write and a read"}
            what = kinds.get((a.write, b.write), "a read and a write")
            who = f"{call} on unit {event.unit} and {other} on unit {against.unit}"
            values = f"{a.value!r}" if a.value == b.value else f"{a.value!r} and {b.value!r} (the same bytes)"
            raise place.broken(LAW, f"{what} of {values}, by {who}, are unordered")


def touch_same(
    program: Program, mine: tuple[Call, Access, Event], theirs: tuple[Call, Access, Event], footprint: Footprint
) -> bool:
    """Whether two events may touch the same element through these accesses of their calls."""
    (call, a, first), (other, b, second) = mine, theirs
    if a.value != b.value or not call.kernel or not other.kernel:
        return True  # element ranges of different values say nothing about shared bytes
    for x in first.tasks:
        left = footprint(program.kernels[call.name], a.parameter, x)
        for y in second.tasks:
            right = footprint(program.kernels[other.name], b.parameter, y)
            if left is None or right is None or any(p < s and r < q for p, q in left for r, s in right):
                return True
    return False
