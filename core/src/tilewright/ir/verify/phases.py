"""Laws of one phase of a launch: lanes, which tasks run, and that reads follow writes. Ordering is in `ordering`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.interpret.evaluate import evaluate
from tilewright.ir.program import UNIT, Lane, Launch, Phase, Program, Signal, Task
from tilewright.ir.verify.clocks import PhaseOrder
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.ordering import (
    Access,
    Footprint,
    accesses,
    check_inplace,
    check_phase,
    conflicting,
    touch_same,
)
from tilewright.ir.verify.tree import Part, leaves
from tilewright.ir.verify.turns import Used, shared
from tilewright.ir.verify.unroll import Event, lane_units, unroll

TASKS = "a launch runs every task of a kernel that it calls, each as often as the others"
LANES = "a unit of the envelope stands in at most one lane of a phase"
EVENTS = (
    "an event is one of its launch, its index within the event's counters, and the launch has a buffer for its events; "
    "what a phase signals under a condition, or more often than is looked at, no later phase signals or waits for"
)
WRITTEN = "a value is written before it is read, and every output is written"

Call = tuple[str, tuple[str, ...]]
Numbers = npt.NDArray[np.int64]


@attrs.define
class Run:
    """What a launch has run so far: the numbers of the tasks of each call, and its signals.

    Attributes:
        counted: how often each counter of an event was signalled.
        phases: what each phase touches.
        unknown: events of which that is not known.
    """

    tasks: dict[Call, list[Numbers]] = attrs.field(factory=dict)
    counted: dict[tuple[str, int], int] = attrs.field(factory=dict)
    phases: list[Used] = attrs.field(factory=list)
    unknown: set[str] = attrs.field(factory=set)

    def add(self, task: Task, numbers: Numbers) -> None:
        """Counts some tasks."""
        self.tasks.setdefault((task.kernel, task.args), []).append(numbers)

    def check(self, program: Program, place: Place) -> None:
        """Refuses a call of which some tasks ran more often than others, or of tasks that the kernel does not have."""
        for (name, _), parts in self.tasks.items():
            tasks = program.kernels[name].choice.resources.tasks
            numbers = np.concatenate(parts)
            beyond = numbers[(numbers < 0) | (numbers >= tasks)]
            if beyond.size:
                raise place.broken(TASKS, f"{name} runs task {int(beyond[0])}, it has {tasks}")
            counts = np.bincount(numbers, minlength=tasks)
            if counts.min() != counts.max():
                few, many = int(counts.argmin()), int(counts.argmax())
                found = f"{name} runs task {few} {counts[few]} times and task {many} {counts[many]} times"
                raise place.broken(TASKS, found)


def run_phase(
    program: Program,
    phase: Phase,
    launch: Launch,
    written: frozenset[str],
    env: Mapping[str, int],
    run: Run,
    place: Place,
    footprint: Footprint,
) -> frozenset[str]:
    """Checks a phase and returns the values that are written after it.

    Args:
        written: those that are written before it.
        run: gets the tasks of the phase.
    """
    _check_lanes(phase, launch, env, place)
    straight = _straight(program, phase, written, env)
    if straight is not None:
        for task, numbers in straight:
            run.add(task, numbers)
            if numbers.size > 1:
                check_inplace(program.kernels[task.kernel], accesses(program, task.kernel, task.args), place)
        run.phases.append(Used({name: () for task, _ in straight for name in task.args}))
        return written | {x.value for task, _ in straight for x in _writes(program, task)}
    units, complete = unroll(phase, env, place)
    _check_events(phase, launch, run, place)
    order = check_phase(program, units, place, footprint, run.counted)
    run.phases.append(Used.of(order))
    for event in order.events:
        if isinstance(event.item, Task):
            if not event.optional:
                run.add(event.item, np.asarray(event.tasks, np.int64))
            continue
        if not 0 <= event.key[1] < launch.events[event.item.event]:
            raise place.broken(EVENTS, f"{event.key[0]}[{event.key[1]}] of {launch.events[event.item.event]} counters")
        if isinstance(event.item, Signal):
            run.counted[event.key] = run.counted.get(event.key, 0) + 1
    if not complete:
        run.unknown |= signalled((phase,))
    return _flow(program, order, written, place, footprint)


def _writes(program: Program, task: Task) -> list[Access]:
    return [x for x in accesses(program, task.kernel, task.args) if x.write]


def _check_events(phase: Phase, launch: Launch, run: Run, place: Place) -> None:
    for item in leaves((phase,)):
        if isinstance(item, Task):
            continue
        if item.event not in launch.events:
            raise place.broken(EVENTS, f"launch {launch.name} has no event {item.event!r}")
        if item.event in run.unknown:
            raise place.broken(EVENTS, f"how often {item.event!r} was signalled before is not known")


def signalled(parts: Sequence[Part]) -> set[str]:
    """The events that some phases signal."""
    return {x.event for x in leaves(parts) if isinstance(x, Signal)}


def _check_lanes(phase: Phase, launch: Launch, env: Mapping[str, int], place: Place) -> None:
    taken: list[tuple[range, int]] = []
    for number, lane in enumerate(phase.lanes):
        units = lane_units(lane, env)
        if units and not (units[0] >= 0 and units[-1] < launch.envelope.units):
            found = f"units {units[0]} to {units[-1]} of the envelope's {launch.envelope.units}"
            raise place.at(f"lane {number}").broken(LANES, found)
        for other, where in taken:
            if units and other and units[0] <= other[-1] and other[0] <= units[-1]:
                found = f"unit {max(units[0], other[0])} stands in lanes {where} and {number}"
                raise place.broken(LANES, found)
        taken.append((units, number))


def _straight(
    program: Program, phase: Phase, written: frozenset[str], env: Mapping[str, int]
) -> list[tuple[Task, Numbers]] | None:
    """The tasks of a phase in which nothing can race: only tasks, each once, on bytes that no other call writes.

    None when it is not so simple. This is the common case, and may have very many units.
    """
    found: list[tuple[Task, Numbers]] = []
    for lane in phase.lanes:
        for item in lane.items:
            if not isinstance(item, Task):
                return None
            found.append((item, _numbers(item, lane, env)))
    calls: dict[Call, list[Numbers]] = {}
    for task, numbers in found:
        calls.setdefault((task.kernel, task.args), []).append(numbers)
    listed = [accesses(program, name, args) for name, args in calls]
    if any(not x.write and x.value not in written for mine in listed for x in mine):
        return None
    if next(conflicting(listed, program), None) is not None:
        return None
    if shared(program.storage.placements[name] for _, args in calls for name in args):
        return None  # which of two values comes first, program order may say
    if any(np.unique(x := np.concatenate(parts)).size != x.size for parts in calls.values()):
        return None
    return found


def _numbers(task: Task, lane: Lane, env: Mapping[str, int]) -> Numbers:
    """The task numbers of one item on all units of its lane."""
    units = lane_units(lane, env)
    points: dict[str, Any] = {**env, UNIT: np.arange(units.start, units.stop, dtype=np.int64)}
    first, count, stride = (
        np.broadcast_to(evaluate(x, points), (len(units),)) for x in (task.first, task.count, task.stride)
    )
    count = np.maximum(count, 0)
    before = np.repeat(np.cumsum(count) - count, count)
    position = np.arange(int(count.sum())) - before
    return np.asarray(np.repeat(first, count) + position * np.repeat(stride, count), np.int64)


def _flow(
    program: Program, order: PhaseOrder, written: frozenset[str], place: Place, footprint: Footprint
) -> frozenset[str]:
    """Every task whose writes a read may touch has run before the read, unless the value was written before."""
    writers: dict[str, dict[tuple[Call, range], list[int]]] = {}
    for i, event in enumerate(order.events):
        if isinstance(event.item, Task) and not event.optional:
            call = (event.item.kernel, event.item.args)
            for access in _writes(program, event.item):
                writers.setdefault(access.value, {}).setdefault((call, event.tasks), []).append(i)
    readers: dict[Call, list[int]] = {}
    for i, event in enumerate(order.events):
        if isinstance(event.item, Task) and event.tasks:
            readers.setdefault((event.item.kernel, event.item.args), []).append(i)
    for (name, args), reading in readers.items():
        for access in accesses(program, name, args):
            if access.write or access.value in written:
                continue
            found = writers.get(access.value, {})
            shared = program.storage.buffers[access.placement.buffer].owner != "unit"
            if found and shared and order.all_before([x for nodes in found.values() for x in nodes], reading):
                continue  # the common case, at once; else one by one
            for i in reading:
                there = place.at(f"task of {name} on unit {order.events[i].unit}")
                _check_written(program, order, i, access, found, there, footprint)
    return written | writers.keys()


def _check_written(
    program: Program,
    order: PhaseOrder,
    reader: int,
    access: Access,
    writers: Mapping[tuple[Call, range], Sequence[int]],
    place: Place,
    footprint: Footprint,
) -> None:
    event = order.events[reader]
    own = program.storage.buffers[access.placement.buffer].owner == "unit"
    if not writers:
        raise place.broken(WRITTEN, f"{access.value!r} is read and never written before")
    for ((name, args), _), nodes in writers.items():
        if any(order.before(x, reader) and (not own or order.events[x].unit == event.unit) for x in nodes):
            continue
        write = next(x for x in accesses(program, name, args) if x.write and x.value == access.value)
        if _touch(program, event, access, order.events[nodes[0]], write, name, footprint):
            raise place.broken(WRITTEN, f"{access.value!r} is read before {name} has written all of it")


def _touch(
    program: Program, event: Event, read: Access, writer: Event, write: Access, name: str, footprint: Footprint
) -> bool:
    assert isinstance(event.item, Task)
    kernel = program.kernels[event.item.kernel]
    return touch_same(kernel, read, event, program.kernels[name], write, writer, footprint)
