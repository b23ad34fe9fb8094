"""Laws of one phase of a launch: lanes, which tasks run, and that reads follow writes. Ordering is in `ordering`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.interpret.evaluate import evaluate
from tilewright.ir.program import UNIT, Copy, Fetch, Lane, Launch, Part, Phase, Program, Signal, Task, Wait
from tilewright.ir.verify.flow import check_flow
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.near import Held
from tilewright.ir.verify.ordering import Footprint, accesses, check_inplace, check_phase, conflicting
from tilewright.ir.verify.tree import Work, leaves
from tilewright.ir.verify.turns import Used, shared
from tilewright.ir.verify.unroll import Acting, Call, Scope, call_of, lane_units, unroll

TASKS = "a launch runs every task of a kernel that it calls, each as often as the others"
LANES = "a unit of the envelope stands in at most one lane of a phase"
EVENTS = (
    "an event is one of its launch, its index within the event's counters, and the launch has a buffer for its events; "
    "what a phase signals under a condition, or more often than is looked at, no later phase signals or waits for"
)
Numbers = npt.NDArray[np.int64]


@attrs.define
class Run:
    """What a launch has run so far: the numbers of the tasks of each call, and its signals.

    Args:
        held: what its units have in memory of their own.

    Attributes:
        totals: how many tasks or parts each call has.
        counted: how often each counter of an event was signalled.
        phases: what each phase touches.
        unknown: events of which that is not known.
    """

    held: Held
    tasks: dict[tuple[Call, Scope], list[Numbers]] = attrs.field(factory=dict)
    totals: dict[Call, int] = attrs.field(factory=dict)
    counted: dict[tuple[str, int], int] = attrs.field(factory=dict)
    phases: list[Used] = attrs.field(factory=list)
    unknown: set[str] = attrs.field(factory=set)

    def add(self, program: Program, work: Work, numbers: Numbers, scope: Scope = ()) -> None:
        """Counts some tasks, or parts of a copy, that run where a scope says."""
        call = call_of(work)
        self.tasks.setdefault((call, scope), []).append(numbers)
        if isinstance(work, Task):
            self.totals[call] = program.kernels[work.kernel].choice.resources.tasks
        else:
            self.totals[call] = work.parts if isinstance(work, Copy) else 1

    def check(self, place: Place) -> None:
        """Refuses a call of which some tasks ran more often than others, or of tasks that the kernel does not have."""
        for (call, _), parts in self.tasks.items():
            tasks = self.totals[call]
            numbers = np.concatenate(parts)
            beyond = numbers[(numbers < 0) | (numbers >= tasks)]
            if beyond.size:
                raise place.broken(TASKS, f"{call} runs task {int(beyond[0])}, it has {tasks}")
            counts = np.bincount(numbers, minlength=tasks)
            if counts.min() != counts.max():
                few, many = int(counts.argmin()), int(counts.argmax())
                found = f"{call} runs task {few} {counts[few]} times and task {many} {counts[many]} times"
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
            run.add(program, task, numbers)
            if numbers.size > 1:
                check_inplace(program.kernels[task.kernel], accesses(program, task), place)
        run.phases.append(Used({name: () for task, _ in straight for name in task.args}))
        return written | {x.value for task, _ in straight for x in accesses(program, task) if x.write}
    units, complete = unroll(phase, env, place)
    run.held.run(units, place)
    _check_events(phase, launch, run, place)
    order = check_phase(program, units, place, footprint, run.counted)
    run.phases.append(Used.of(order))
    for event in order.events:
        if isinstance(event.item, Acting):
            if isinstance(event.item, Work):
                run.add(program, event.item, np.asarray(event.tasks, np.int64), event.scope)
            continue
        if isinstance(event.item, Fetch):
            continue
        if not 0 <= event.key[1] < launch.events[event.item.event]:
            raise place.broken(EVENTS, f"{event.key[0]}[{event.key[1]}] of {launch.events[event.item.event]} counters")
        if isinstance(event.item, Signal):
            run.counted[event.key] = run.counted.get(event.key, 0) + 1
    if not complete:
        run.unknown |= signalled((phase,))
    return check_flow(program, order, written, place, footprint)


def _check_events(phase: Phase, launch: Launch, run: Run, place: Place) -> None:
    for item in leaves((phase,)):
        if not isinstance(item, Signal | Wait):
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
            if not isinstance(item, Task) or item.near is not None:
                return None
            found.append((item, _numbers(item, lane, env)))
    calls: dict[Call, list[Numbers]] = {}
    for task, numbers in found:
        calls.setdefault(call_of(task), []).append(numbers)
    tasks = {call_of(task): task for task, _ in found}
    listed = [accesses(program, tasks[call]) for call in calls]
    if any(not x.write and x.value not in written for mine in listed for x in mine):
        return None
    if next(conflicting(listed, program), None) is not None:
        return None
    if shared(program.storage.placements[name] for call in calls for name in call.args):
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
