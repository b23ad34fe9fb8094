"""Waves as launches: the policy where no unit may wait for another (Rammer, algorithm 1, without its P1).

Each wavefront of operators becomes one launch, in which every unit runs one rTask and nothing waits; launches follow
each other in a stream, so the end of one is the barrier between waves. Nothing has to be resident: a wave may have more
rTasks than the device has room for. An operator that cannot stand beside others, or would only make its wave slower,
has a launch of its own next to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import attrs

from tilewright.ir.expr import Var, const
from tilewright.ir.program import UNIT, Envelope, Lane, Launch, Phase, Task
from tilewright.planning.record import shape_of
from tilewright.planning.requests import Planned
from tilewright.planning.schedule.one_kernel import launch_of as alone
from tilewright.planning.session import Session
from tilewright.planning.timeline import LEAST, task_seconds
from tilewright_rammer.kernels import thrifty
from tilewright_rammer.members import excluded
from tilewright_rammer.memory import Levels, Memory, levels_of
from tilewright_rammer.operators import ROperator, operators_of
from tilewright_rammer.options import RammerOptions
from tilewright_rammer.vdevice import VDevice, union, vdevice_of
from tilewright_rammer.waves import spread, wavefronts

_MOST_VALUES = 384
"""Values of one launch. Its kernel takes their addresses as parameters, of which HIP and CUDA promise 4 KiB."""


def wave_launches(planned: Sequence[Planned], session: Session, options: RammerOptions) -> Iterator[Launch]:
    """The launches of kernels without control flow between them, each with its entry in the decision record.

    Waves stand in breadth-first order, kernels of which none was merged with another in the order that they came in.
    """
    rtask = partial(task_seconds, device=session.device)
    for first in range(0, len(planned), options.most):
        operators = operators_of(planned[first : first + options.most], session, rtask, LEAST)
        made = [x for wave in wavefronts(operators) for x in _launches(wave, session, options)]
        if any(x.only_task is None for x in made):
            yield from made
        else:
            yield from (alone(x.planned) for x in operators)


def _launches(wave: Sequence[ROperator], session: Session, options: RammerOptions) -> Iterator[Launch]:
    why = excluded([x.planned for x in wave], session)
    for operator, reason in zip(wave, why, strict=True):
        if reason:
            yield _alone(operator, session, reason)
    for members in _pieces([x for x, reason in zip(wave, why, strict=True) if not reason]):
        if len(members) < 2:
            yield from (_alone(x, session, "nothing stands beside it") for x in members)
        else:
            yield from _merged(members, session, options)


def _pieces(members: Sequence[ROperator]) -> Iterator[list[ROperator]]:
    """The operators in groups that name few enough values."""
    piece: list[ROperator] = []
    names: set[str] = set()
    for operator in members:
        mine = set(operator.planned.args)
        if piece and len(names | mine) > _MOST_VALUES:
            yield piece
            piece, names = [], set()
        piece.append(operator)
        names |= mine
    if piece:
        yield piece


def _merged(members: list[ROperator], session: Session, options: RammerOptions) -> Iterator[Launch]:
    device = vdevice_of(session.device, [x.choice.resources for x in members])
    levels = _levels(members, session, options)
    if options.select:
        rtask = partial(task_seconds, device=session.device)
        members = thrifty(members, session, device, levels, _envelope(members), rtask)
    together = _seconds(members, device, levels)
    each = [_apart(x, device) for x in members]
    if together > sum(each) * (1 - options.gain):
        why = f"launches of their own take {micro(sum(each))}, one launch {micro(together)}"
        yield from (_alone(x, session, why) for x in members)
        return
    launch = _launch(members)
    chosen = {
        **shape_of(launch),
        "operators": len(members),
        "with": [x.planned.group.name for x in members if x.planned.group.name != launch.name],
    }
    why = f"launches of their own would take {micro(sum(each))}"
    if not session.device.cooperative:
        why += f"; units of {session.device.name} cannot wait for each other"
    session.decide("schedule", launch.name, chosen, ["one-kernel-per-group"], [together, sum(each)], why)
    yield launch


def _seconds(members: Sequence[ROperator], device: VDevice, levels: Levels) -> float:
    """Predicted seconds of one launch. Units that no rTask would reach are left out."""
    used = attrs.evolve(device, units=min(device.units, sum(x.tasks for x in members)))
    return device.launch + spread(members, used, Memory(levels, used.units))[1]


def _apart(operator: ROperator, device: VDevice) -> float:
    """Predicted seconds of a launch of its own."""
    seconds = max(operator.choice.cost - device.launch, LEAST)
    return seconds if device.serial and operator.tasks == 1 else seconds + device.launch


def _levels(members: Sequence[ROperator], session: Session, options: RammerOptions) -> Levels:
    weights: dict[str, int] = {}
    for operator in members:
        weights |= operator.weights
    return levels_of(session.device, sum(weights.values()), options.placement)


def _envelope(members: Sequence[ROperator]) -> Envelope:
    whole = union(x.choice.resources for x in members)
    return Envelope(sum(x.tasks for x in members), whole.threads, whole.registers, whole.shared_bytes)


def _launch(members: Sequence[ROperator]) -> Launch:
    """Long rTasks first, for devices begin units in the order of their numbers; what runs one kernel stays together."""
    lanes: list[Lane] = []
    units = 0
    for operator in sorted(members, key=lambda x: (-x.seconds, x.planned.kernel.name, x.number)):
        task = Task(operator.planned.kernel.name, operator.planned.args, Var(UNIT) - units)
        lanes.append(Lane(units, const(operator.tasks), (task,)))
        units += operator.tasks
    return Launch(members[0].planned.group.name, _envelope(members), (Phase(tuple(lanes)),))


def _alone(operator: ROperator, session: Session, why: str) -> Launch:
    launch = alone(operator.planned)
    session.decide("schedule", launch.name, shape_of(launch), costs=[operator.choice.cost], why=why)
    return launch


def micro(seconds: float) -> str:
    """Seconds as text."""
    return f"{seconds * 1e6:.1f} µs"
