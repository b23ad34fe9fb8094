"""From an rProgram to the launch that stands for it: lanes of tasks, signals and waits (section 4.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tilewright.ir.expr import const
from tilewright.ir.program import Envelope, Item, Lane, Launch, Phase, Signal, Task, Wait
from tilewright_rammer.plan import RProgram, Run

DONE = "done"
"""The event that a unit signals after its tasks of an operator. Its indices number operators that are waited for."""


def launch_of(program: RProgram, name: str, envelope: Envelope) -> Launch:
    """One persistent launch."""
    waited = sorted({x for run in program.runs for x in run.waits})
    index = {number: i for i, number in enumerate(waited)}
    phases = tuple(_phase(part, index) for part in program.parts)
    return Launch(name, envelope, phases, {DONE: len(waited)} if waited else {})


def _phase(part: Sequence[Sequence[Run]], index: Mapping[int, int]) -> Phase:
    signals = Counter(run.operator.number for runs in part for run in runs)
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
