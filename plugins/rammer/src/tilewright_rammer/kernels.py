"""SelectRKernels: which of an operator's kernels runs (Rammer, algorithm 1).

Each operator's fastest kernel is chosen for a device that it has for itself. Where operators stand side by side and
together have more rTasks than the device has units, the kernel that needs the least of the device is tried, and taken
where the wave is then predicted to end earlier.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.ir.choice import TileChoice
from tilewright.ir.program import Envelope
from tilewright.planning.session import Session
from tilewright.planning.timeline import task_seconds
from tilewright_rammer.memory import Levels, Memory
from tilewright_rammer.operators import ROperator
from tilewright_rammer.vdevice import VDevice
from tilewright_rammer.waves import spread, wavefronts

_WORTH = 0.9
"""Predicted times that lie closer together than this say nothing of which kernels are faster."""


def selected(
    operators: Sequence[ROperator], session: Session, device: VDevice, levels: Levels, envelope: Envelope
) -> list[ROperator]:
    """The operators with the kernels that suit the wavefronts which they stand in, as far as the envelope has room."""
    found = list(operators)
    for wave in wavefronts(operators):
        for operator in thrifty(wave, session, device, levels, envelope):
            found[operator.number] = operator
    return found


def thrifty(
    wave: list[ROperator], session: Session, device: VDevice, levels: Levels, envelope: Envelope
) -> list[ROperator]:
    """The operators of one wavefront, with kernels that need less of the device where it then ends earlier."""
    if len(wave) < 2 or sum(x.tasks for x in wave) <= device.units:
        return wave
    found = [_thrifty(x, session, envelope) for x in wave]
    better = found != wave and _seconds(found, device, levels) < _WORTH * _seconds(wave, device, levels)
    return found if better else wave


def _seconds(wave: Sequence[ROperator], device: VDevice, levels: Levels) -> float:
    return spread(wave, device, Memory(levels, device.units))[1]


def _thrifty(operator: ROperator, session: Session, envelope: Envelope) -> ROperator:
    """The operator with the kernel of the least tasks × seconds."""

    def used(choice: TileChoice) -> float:
        return choice.resources.tasks * task_seconds(choice, session.device)

    own = operator.choice
    fitting = [x for x in operator.planned.choices if x.count is None and _fits(x, envelope)]
    best = min((own, *fitting), key=used)
    if best is own or used(best) >= used(own):
        return operator
    planned = session.plan(operator.planned.group, best)
    return attrs.evolve(operator, planned=planned, seconds=task_seconds(best, session.device))


def _fits(choice: TileChoice, envelope: Envelope) -> bool:
    needs = choice.resources
    return (
        needs.threads <= envelope.threads
        and needs.registers <= envelope.registers
        and needs.shared_bytes <= envelope.shared_bytes
    )
