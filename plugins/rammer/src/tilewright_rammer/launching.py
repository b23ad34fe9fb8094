"""From an rProgram to the launch that stands for it: lanes of tasks, signals and waits (section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.expr import const
from tilewright.ir.program import Envelope, Item, Lane, Launch, Phase, Signal, Task, Wait
from tilewright_rammer.plan import RProgram, Run

DONE = "done"
"""The event that a unit signals after its tasks of an operator; the index is the operator's place in the launch."""


def launch_of(program: RProgram, name: str, envelope: Envelope) -> Launch:
    """One persistent launch."""
    return Launch(name, envelope, tuple(_phase(part) for part in program.parts))


def _phase(part: Sequence[Sequence[Run]]) -> Phase:
    waited = sorted({x for runs in part for run in runs for x in run.waits})
    index = {number: i for i, number in enumerate(waited)}
    signals = dict.fromkeys(waited, 0)
    for runs in part:
        for run in runs:
            if run.operator.number in index:
                signals[run.operator.number] += 1
    lanes = []
    for unit, runs in enumerate(part):
        items: list[Item] = []
        for run in runs:
            items += [Wait(DONE, const(index[x]), const(signals[x])) for x in run.waits]
            planned = run.operator.planned
            items.append(Task(planned.kernel.name, planned.args, const(run.first), const(run.count)))
            if run.operator.number in index:
                items.append(Signal(DONE, const(index[run.operator.number])))
        if items:
            lanes.append(Lane(unit, const(1), tuple(items)))
    return Phase(tuple(lanes))
