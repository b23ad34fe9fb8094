"""From an rProgram to the launch that stands for it: lanes of tasks, signals and waits (section 4.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import attrs

from tilewright.ir.expr import const
from tilewright.ir.program import Envelope, Fetch, Item, Lane, Launch, Near, Phase, Signal, Task, Wait
from tilewright.ir.verify.near import parts_of
from tilewright_rammer.plan import RProgram, Run

DONE = "done"
"""The event that a unit signals after its tasks of an operator. Its indices number operators that are waited for."""


def launch_of(program: RProgram, name: str, envelope: Envelope) -> Launch:
    """One persistent launch."""
    waited = sorted({x for run in program.runs for x in run.waits})
    index = {number: i for i, number in enumerate(waited)}
    phases = tuple(_phase(part, index) for part in program.parts)
    kept = [(x, x.near) for x in program.runs if x.near is not None]
    ends = (near.offset + x.operator.choice.slice_bytes(near.count) * x.count for x, near in kept)
    envelope = attrs.evolve(envelope, own_bytes=max(ends, default=0))
    return Launch(name, envelope, phases, {DONE: len(waited)} if waited else {})


def _fetches(run: Run) -> list[Item]:
    """What brings the slices of a run's tasks into the unit's own memory."""
    found: list[Item] = []
    if run.fetches and run.near is not None:
        planned, size = run.operator.planned, run.operator.choice.slice_bytes(run.near.count)
        for i in range(run.count):
            near = Near(run.near.offset + i * size, run.near.count)
            parts = parts_of(planned.kernel, planned.args, run.first + i, near)
            found += [Fetch(x.source, const(x.first), x.bytes, x.offset) for x in parts]
    return found


def _phase(part: Sequence[Sequence[Run]], index: Mapping[int, int]) -> Phase:
    signals = Counter(run.operator.number for runs in part for run in runs)
    lanes = []
    for unit, runs in enumerate(part):
        items: list[Item] = []
        for run in runs:
            items += _fetches(run)  # while the unit waits they are under way
            items += [Wait(DONE, const(index[x]), const(signals[x])) for x in run.waits]
            planned = run.operator.planned
            items.append(Task(planned.kernel.name, planned.args, const(run.first), const(run.count), near=run.near))
            if run.operator.number in index:
                items.append(Signal(DONE, const(index[run.operator.number])))
        if items:
            lanes.append(Lane(unit, const(1), tuple(items)))
    return Phase(tuple(lanes))
