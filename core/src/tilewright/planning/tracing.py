"""The pass `trace`: launches record when which unit ran what; and what they recorded as a timeline.

Recording takes a little of each task's time. A launch of a kernel whose recipe is not embeddable records nothing, and a
unit that runs more tasks than `MOST` nothing of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tilewright.errors import InputError
from tilewright.ir.expr import Const
from tilewright.ir.program import BlockControl, GridControl, Item, Launch, Part, Phase, Task
from tilewright.ir.verify.tree import tasks_of
from tilewright.planning.session import Session
from tilewright.planning.timeline import Bar, Timeline
from tilewright.runtime.native import TaskTime

MOST = 4096
"""Tasks of which a unit keeps a record."""


def traced(launches: Sequence[Launch], session: Session) -> tuple[Launch, ...]:
    """The launches, which keep records.

    Raises:
        InputError: the target is no CUDA device.
    """
    if session.device.kind != "cuda":
        raise InputError(
            f"The pass trace records what CUDA devices do, and the target is {session.target}.",
            "Leave the pass out, or compile for cuda.",
        )
    embeddable = {x.name for x in session.recipes if x.embeddable}

    def records(launch: Launch) -> bool:
        kernels = (session.table.kernels[x.kernel] for x in tasks_of(launch.body))
        return all(x.choice.recipe in embeddable for x in kernels)

    return tuple(attrs.evolve(x, traced=min(_most(x), MOST)) if records(x) else x for x in launches)


def _most(launch: Launch) -> int:
    """The most tasks that a unit may run, as far as that is known."""
    most: dict[int, int] = {}

    def add(parts: Sequence[Part]) -> None:
        for part in parts:
            if isinstance(part, GridControl):
                add(part.body)
                add(part.orelse)
            for lane in part.lanes if isinstance(part, Phase) else ():
                most[lane.first] = most.get(lane.first, 0) + _tasks(lane.items)

    if launch.calls:
        return MOST
    add(launch.body)
    return max(most.values(), default=0)


def _tasks(items: Sequence[Item]) -> int:
    count = 0
    for item in items:
        if isinstance(item, BlockControl):
            return MOST
        if isinstance(item, Task):
            count += int(item.count.value) if isinstance(item.count, Const) else MOST
    return count


def recorded(times: Mapping[str, Sequence[TaskTime]]) -> Timeline:
    """What launches recorded, by the multiprocessors that ran it.

    Args:
        times: by the launch's name, as `Executable.timeline` has them.
    """
    tasks = [(launch, x) for launch, found in times.items() for x in found]
    first = min((x.begin for _, x in tasks), default=0)
    bars = [
        Bar(launch, x.place, x.kernel, x.nodes, (x.begin - first) * 1e-9, (x.end - first) * 1e-9) for launch, x in tasks
    ]
    bars.sort(key=lambda x: (x.begin, x.unit))
    return Timeline(
        tuple(bars), max((x.unit for x in bars), default=-1) + 1, max((x.end for x in bars), default=0.0)
    )
