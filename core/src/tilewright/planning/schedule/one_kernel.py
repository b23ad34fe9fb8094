"""`schedule = "one-kernel-per-group"`: each group is a launch of its own, one task per unit, in execution order."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.expr import Var, const
from tilewright.ir.program import UNIT, Envelope, Lane, Launch, Phase, Task
from tilewright.planning.record import shape_of
from tilewright.planning.requests import Planned, Request, Schedule

_WHY = "each group is a launch of its own, each unit runs one task"


def make() -> Schedule:
    """The service."""

    def schedule(planned: Sequence[Planned], request: Request) -> tuple[Launch, ...]:
        launches = tuple(launch_of(item) for item in planned)
        for item, launch in zip(planned, launches, strict=True):
            cost = item.kernel.choice.cost
            request.session.decide("schedule", launch.name, shape_of(launch), costs=[cost], why=_WHY)
        return launches

    return schedule


def launch_of(item: Planned) -> Launch:
    """One launch for one group: unit i runs task i."""
    choice = item.kernel.choice
    resources = choice.resources
    envelope = Envelope(resources.tasks, resources.threads, resources.registers, resources.shared_bytes)
    task = Task(item.kernel.name, item.args, Var(UNIT))
    units = const(resources.tasks) if choice.count is None else choice.count
    return Launch(item.group.name, envelope, (Phase((Lane(0, units, (task,)),)),))
