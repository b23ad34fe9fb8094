"""Persistent launches out of what the default scheduler plans: the same kernels, merged in several ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from tilewright.device import DeviceModel
from tilewright.ir.expr import Var, const, maximum
from tilewright.ir.program import (
    UNIT,
    BlockControl,
    Buffer,
    Envelope,
    GridControl,
    HostStep,
    Item,
    Lane,
    Launch,
    Phase,
    Program,
    Signal,
    Storage,
    Task,
    Wait,
)
from tilewright.ir.events import event_bytes
from tilewright.ir.verify.ordering import accesses, conflicts
from tilewright.planning.storage import allocate, byte_size

Merge = Callable[[Sequence[Task], Program, int], tuple[tuple[Phase | GridControl, ...], Mapping[str, int]]]
"""(calls in order, program, units) -> the body of one launch, and its events."""

ALONE = ("cuda.wgmma_ring", "cuda.chain_wgmma")


def merged(program: Program, merge: Merge, units: int, alone: Sequence[str] = ALONE) -> Program:
    """The program with each run of launches as one, on units that take turns. Values get places of their own.

    Args:
        alone: recipes whose kernels stay launches of their own.
    """
    body: list[HostStep] = []
    run: list[Task] = []

    def close() -> None:
        if run:
            body.append(_launch(f"all{len(body)}", run, program, merge, units))
        run.clear()

    for step in program.body:
        task = step.only_task if isinstance(step, Launch) else None
        if task is None or program.kernels[task.kernel].choice.recipe in alone:
            close()
            body.append(step)
        else:
            run.append(task)
    close()
    values = {name: x.value for name, x in program.storage.placements.items()}
    weights = [values[name] for name in program.weights]
    bounds = {x.name: x.interval for x in program.symbols}
    storage = allocate(body, values, program.inputs, program.outputs, weights, symbols=bounds)
    return attrs.evolve(program, body=tuple(body), storage=storage)


def _launch(name: str, calls: Sequence[Task], program: Program, merge: Merge, units: int) -> Launch:
    needs = [program.kernels[x.kernel].choice.resources for x in calls]
    # Registers are left to the assembler: together they may be more than there are for the most threads.
    threads, shared = max(x.threads for x in needs), max(x.shared_bytes for x in needs)
    envelope = Envelope(units, threads, 0, shared, cooperative=True)
    body, events = merge(calls, program, units)
    return Launch(name, envelope, body, events)


def dealt(call: Task, program: Program, first: int, units: int) -> Lane:
    """All tasks of a call, dealt out to the units from `first` on."""
    tasks = program.kernels[call.kernel].choice.resources.tasks
    unit = Var(UNIT) - first
    count = maximum((const(tasks + units - 1) - unit) // units, const(0))
    return Lane(first, const(units), (attrs.evolve(call, first=unit, count=count, stride=const(units)),))


def phases(calls: Sequence[Task], program: Program, units: int) -> tuple[tuple[Phase, ...], Mapping[str, int]]:
    """A phase for each call."""
    return tuple(Phase((dealt(x, program, 0, units),)) for x in calls), {}


def _depends(later: Task, earlier: Task, program: Program) -> bool:
    return bool(conflicts(_touches(later, program), _touches(earlier, program), program))


def _touches(call: Task, program: Program) -> list:
    return accesses(program, call.kernel, call.args)


def side_by_side(calls: Sequence[Task], program: Program, units: int) -> tuple[tuple[Phase, ...], Mapping[str, int]]:
    """A phase for each wave of calls that do not depend on each other, each call on units of its own as far as there are."""
    waves: list[list[Task]] = []
    for call in calls:
        at = max((n + 1 for n, wave in enumerate(waves) if any(_reads(call, x, program) for x in wave)), default=0)
        waves += [[]] * (at == len(waves))
        waves[at] = [*waves[at], call]
    made = []
    for wave in waves:
        for start in range(0, len(wave), units):
            some = wave[start : start + units]
            share = units // len(some)
            made.append(Phase(tuple(dealt(x, program, i * share, share) for i, x in enumerate(some))))
    return tuple(made), {}


def _reads(later: Task, earlier: Task, program: Program) -> bool:
    outputs = len(program.kernels[earlier.kernel].group.outputs)
    return bool(set(earlier.args[-outputs:]) & set(later.args))


def point_to_point(calls: Sequence[Task], program: Program, units: int) -> tuple[tuple[Phase, ...], Mapping[str, int]]:
    """One phase: every unit signals after its part of a call, and waits for all parts of the calls that it reads."""
    items: list[Item] = []
    for number, call in enumerate(calls):
        for other in range(number):
            if _reads(call, calls[other], program):
                items.append(Wait("done", const(other), const(units)))
        items += [dealt(call, program, 0, units).items[0], Signal("done", const(number))]
    return (Phase((Lane(0, const(units), tuple(items)),)),), {"done": len(calls)}


def looped(calls: Sequence[Task], program: Program, units: int) -> tuple[tuple[Phase | GridControl, ...], Mapping[str, int]]:
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


MERGES: Mapping[str, Merge] = {
    "phases": phases,
    "side by side": side_by_side,
    "point to point": point_to_point,
    "looped": looped,
}
