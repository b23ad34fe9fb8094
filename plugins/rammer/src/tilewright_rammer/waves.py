"""The paper's wavefront policy (algorithm 1): operators that need nothing of each other side by side, wave by wave."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright_rammer.memory import Levels, Memory
from tilewright_rammer.operators import ROperator
from tilewright_rammer.plan import RProgram, Run, shares
from tilewright_rammer.vdevice import VDevice


def wavefronts(operators: Sequence[ROperator]) -> list[list[ROperator]]:
    """The operators by their distance from the beginning, in breadth-first order."""
    level: dict[int, int] = {}
    waves: list[list[ROperator]] = []
    for operator in operators:
        depth = max((level[x] + 1 for x in operator.before), default=0)
        level[operator.number] = depth
        if depth == len(waves):
            waves.append([])
        waves[depth].append(operator)
    return waves


def wave_programs(
    operators: Sequence[ROperator], device: VDevice, levels: Levels, apart: Sequence[float]
) -> list[tuple[list[ROperator], RProgram]]:
    """rPrograms, each with its operators. A wave joins the last one where that is not slower than a launch of its own.

    P1 is the last rProgram with the wave behind a barrier, P2 the wave alone: P1 is kept where its time is at most that
    of the last one and P2. An operator that has no other beside it runs as its own kernel where it stays alone.

    Args:
        apart: predicted seconds of each operator as a launch of its own, by number.
    """
    memory = Memory(levels, device.units)
    found: list[tuple[list[ROperator], RProgram]] = []
    for wave in wavefronts(operators):
        part, seconds = spread(wave, device, memory)
        alone = (list(wave), RProgram((part,), seconds + device.start))
        if found:
            members, program = found[-1]
            joined = RProgram((*program.parts, part), program.seconds + device.barrier + seconds)
            if joined.seconds <= _seconds(*found[-1], apart) + _seconds(*alone, apart):
                found[-1] = ([*members, *wave], joined)
                continue
        found.append(alone)
    return found


def _seconds(members: Sequence[ROperator], program: RProgram, apart: Sequence[float]) -> float:
    return program.seconds if len(members) > 1 else apart[members[0].number]


def one_by_one(operators: Sequence[ROperator], device: VDevice, levels: Levels) -> list[float]:
    """Predicted seconds of each operator as a launch of its own, in their order. On a GPU all its tasks run at once."""
    if not device.serial:
        device = attrs.evolve(device, units=max(device.units, *(x.tasks for x in operators)))
    memory = Memory(levels, device.units)
    found = []
    for operator in operators:
        _, seconds = spread([operator], device, memory)
        alone = device.serial and operator.tasks == 1
        found.append(seconds + (0.0 if alone else device.launch))
    return found


def spread(
    wave: Sequence[ROperator], device: VDevice, memory: Memory, each: float = 0.0
) -> tuple[tuple[tuple[Run, ...], ...], float]:
    """A wave on the units, each operator's tasks on those that finish earliest (SelectvEU), and its seconds.

    Args:
        each: seconds more that a unit takes for the tasks of each operator.
    """
    free = [0.0] * device.units
    runs: list[list[Run]] = [[] for _ in range(device.units)]
    before = memory.work
    for operator in sorted(wave, key=lambda x: (-x.seconds, x.number)):
        parts = shares(operator.tasks, device.units)
        units = sorted(sorted(range(device.units), key=lambda u: (free[u], u))[: len(parts)])
        near = 0.0
        for (first, count), unit in zip(parts, units, strict=True):
            near += memory.holds(unit, operator, first, count)
            end = free[unit] + each + memory.seconds(unit, operator, first, count)
            memory.use(unit, operator, first, count)
            runs[unit].append(Run(operator, first, count, free[unit], end))
            free[unit] = end
        memory.fetch(operator, near)
    return tuple(map(tuple, runs)), max(*free, memory.work - before)
