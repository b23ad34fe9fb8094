"""Persistent launches out of what the default scheduler plans: the same kernels, merged in several ways."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import attrs

from tilewright.ir.expr import Var, const, maximum
from tilewright.ir.program import (
    UNIT,
    Envelope,
    Fetch,
    GridControl,
    HostIf,
    HostLoop,
    HostStep,
    Item,
    Lane,
    Launch,
    Near,
    Phase,
    Program,
    Signal,
    Task,
    Wait,
)
from tilewright.ir.verify.near import parts_of
from tilewright.ir.verify.tree import leaves
from tilewright.planning.storage import Part, allocate

Body = tuple[Phase | GridControl, ...]
Merge = Callable[[Sequence[Task], Program, int], tuple[Body, Mapping[str, int]]]
"""(calls in order, program, units) -> the body of one launch, and its events."""

ALONE = ("cuda.wgmma_ring", "cuda.chain_wgmma")


def merged(program: Program, merge: Merge, units: int, alone: Sequence[str] = ALONE) -> Program:
    """The program with each run of launches as one, on units that take turns, in loops, branches and procedures too.

    Args:
        alone: recipes whose kernels stay launches of their own.
    """
    names = (f"all{n}" for n in itertools.count())

    def steps(given: Sequence[HostStep]) -> tuple[HostStep, ...]:
        made: list[HostStep] = []
        run: list[Task] = []

        def close() -> None:
            if run:
                made.append(_launch(next(names), run, program, merge, units))
            run.clear()

        for step in given:
            task = step.only_task if isinstance(step, Launch) else None
            if task is not None and program.kernels[task.kernel].choice.recipe not in alone:
                run.append(task)
                continue
            close()
            match step:
                case HostLoop():
                    made.append(attrs.evolve(step, body=steps(step.body)))
                case HostIf():
                    made.append(attrs.evolve(step, then=steps(step.then), orelse=steps(step.orelse)))
                case _:
                    made.append(step)
        close()
        return tuple(made)

    procedures = {n: attrs.evolve(p, body=steps(p.body)) for n, p in program.procedures.items()}
    return placed(attrs.evolve(program, body=steps(program.body), procedures=procedures))


def waved(program: Program) -> Program:
    """The program, which has launches only, with one for each wave of calls that do not depend on each other.

    Every unit runs one task, and nothing waits. Calls of one kernel stand together.
    """
    calls = [x.only_task for x in program.body if isinstance(x, Launch) and x.only_task is not None]
    assert len(calls) == len(program.body)
    made = []
    for number, wave in enumerate(waves_of(calls, program)):
        wave = sorted(wave, key=lambda x: x.kernel)
        needs = [program.kernels[x.kernel].choice.resources for x in wave]
        lanes, units = [], 0
        for call, need in zip(wave, needs, strict=True):
            lanes.append(Lane(units, const(need.tasks), (attrs.evolve(call, first=Var(UNIT) - units),)))
            units += need.tasks
        most = (max(getattr(x, name) for x in needs) for name in ("threads", "registers", "shared_bytes"))
        made.append(Launch(f"wave{number}", Envelope(units, *most), (Phase(tuple(lanes)),)))
    return placed(attrs.evolve(program, body=tuple(made)))


def placed(program: Program) -> Program:
    """The program with new storage for its steps."""
    values = {name: x.value for name, x in program.storage.placements.items()}
    weights = [values[name] for name in program.weights]
    bounds = {x.name: x.interval for x in program.symbols}
    procedures = tuple(program.procedures.values())
    given = {x.name for x in program.inputs}
    found = [x for n, x in program.storage.placements.items() if x.buffer in given and n not in given]
    parts = [Part(x.value, x.buffer, x.offset) for x in found]
    kept = program.inputs, program.outputs, weights, procedures, bounds
    storage = allocate(program.body, values, *kept, parts=parts)
    return attrs.evolve(program, storage=storage)


def _launch(name: str, calls: Sequence[Task], program: Program, merge: Merge, units: int) -> Launch:
    needs = [program.kernels[x.kernel].choice.resources for x in calls]
    # Registers are left to the assembler: together they may be more than there are for the most threads.
    threads, shared = max(x.threads for x in needs), max(x.shared_bytes for x in needs)
    envelope = Envelope(units, threads, 0, shared, cooperative=True)
    body, events = merge(calls, program, units)
    fetched = [x for x in leaves(body) if isinstance(x, Fetch)]
    own = max((x.offset + x.bytes for x in fetched), default=0)
    return Launch(name, attrs.evolve(envelope, own_bytes=own), body, events)


def dealt(call: Task, program: Program, first: int, units: int) -> Lane:
    """All tasks of a call, dealt out to the units from `first` on."""
    choice = program.kernels[call.kernel].choice
    tasks = const(choice.resources.tasks) if choice.count is None else choice.count
    unit = Var(UNIT) - first
    count = maximum((tasks + (units - 1) - unit) // units, const(0))
    return Lane(first, const(units), (attrs.evolve(call, first=unit, count=count, stride=const(units)),))


def phases(calls: Sequence[Task], program: Program, units: int) -> tuple[Body, Mapping[str, int]]:
    """A phase for each call."""
    return tuple(Phase((dealt(x, program, 0, units),)) for x in calls), {}


def side_by_side(calls: Sequence[Task], program: Program, units: int) -> tuple[Body, Mapping[str, int]]:
    """A phase for each wave of calls that do not depend on each other, each on units of its own as far as there are."""
    made = []
    for wave in waves_of(calls, program):
        for start in range(0, len(wave), units):
            some = wave[start : start + units]
            share = units // len(some)
            made.append(Phase(tuple(dealt(x, program, i * share, share) for i, x in enumerate(some))))
    return tuple(made), {}


def waves_of(calls: Sequence[Task], program: Program) -> list[list[Task]]:
    """Calls by their distance from the beginning."""
    waves: list[list[Task]] = []
    for call in calls:
        at = max((n + 1 for n, wave in enumerate(waves) if any(_reads(call, x, program) for x in wave)), default=0)
        waves += [[]] * (at == len(waves))
        waves[at] = [*waves[at], call]
    return waves


def _reads(later: Task, earlier: Task, program: Program) -> bool:
    outputs = len(program.kernels[earlier.kernel].group.outputs)
    return bool(set(earlier.args[-outputs:]) & set(later.args))


def point_to_point(calls: Sequence[Task], program: Program, units: int) -> tuple[Body, Mapping[str, int]]:
    """One phase: every unit signals after its part of a call, and waits for all parts of the calls that it reads."""
    items: list[Item] = []
    for number, call in enumerate(calls):
        for other in range(number):
            if _reads(call, calls[other], program):
                items.append(Wait("done", const(other), const(units)))
        items += [dealt(call, program, 0, units).items[0], Signal("done", const(number))]
    return (Phase((Lane(0, const(units), tuple(items)),)),), {"done": len(calls)}


def looped(calls: Sequence[Task], program: Program, units: int) -> tuple[Body, Mapping[str, int]]:
    """The calls three times over in a loop of the grid, those of a trip ordered by a counter that goes on."""
    trip, meetings = Var("trip"), len(calls) - 1
    items: list[Item] = []
    for number, call in enumerate(calls):
        items.append(dealt(call, program, 0, units).items[0])
        if number < meetings:
            target = (trip * meetings + (number + 1)) * units
            items += [Signal("met", const(0)), Wait("met", const(0), target)]
    phase = Phase((Lane(0, const(units), tuple(items)),))
    return (GridControl("trip", const(3), "", (phase,)),), {"met": 1}


def kept(
    calls: Sequence[Task], program: Program, units: int, most: int = 1 << 30
) -> tuple[Body, Mapping[str, int]]:
    """As `point_to_point`, but each unit first brings near it slices that its tasks read, `most` of each at most."""
    lanes = []
    for unit in range(units):
        fetches: list[Item] = []
        items: list[Item] = []
        offset = 0
        for number, call in enumerate(calls):
            kernel = program.kernels[call.kernel]
            items += [Wait("done", const(x), const(units)) for x in range(number) if _reads(call, calls[x], program)]
            tasks = range(unit, kernel.choice.resources.tasks, units)
            task = attrs.evolve(call, first=const(unit), count=const(len(tasks)), stride=const(units))
            near = Near(offset, min(len(kernel.sliced), most)) if kernel.sliced else None
            for x in tasks if near is not None else ():
                here = Near(offset, near.count)
                found = parts_of(kernel, call.args, x, here)
                fetches += [Fetch(x.source, const(x.first), x.bytes, x.offset) for x in found]
                offset += kernel.choice.slice_bytes(near.count)
            items += [attrs.evolve(task, near=near), Signal("done", const(number))]
        lanes.append(Lane(unit, const(1), (*fetches, *items)))
    return (Phase(tuple(lanes)),), {"done": len(calls)}


MERGES: Mapping[str, Merge] = {
    "phases": phases,
    "side by side": side_by_side,
    "point to point": point_to_point,
    "looped": looped,
    "kept": kept,
    "kept in part": partial(kept, most=1),
}
