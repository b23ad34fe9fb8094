"""SelectRKernels: which of an operator's kernels runs (Rammer, algorithm 1).

Each operator's fastest kernel is chosen for a device that it has for itself. Where operators stand side by side and
together have more rTasks than the device has units, other kernels are tried: those that need the least of the device,
and those with no more rTasks than an operator's share of the units, for which the proposer is asked. They are taken
where the wave is then predicted to end earlier.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.errors import UnsupportedError
from tilewright.ir.choice import TileChoice
from tilewright.ir.program import Envelope
from tilewright.planning.session import Session
from tilewright_rammer.memory import Levels, Memory
from tilewright_rammer.operators import ROperator, RTaskSeconds
from tilewright_rammer.vdevice import VDevice
from tilewright_rammer.waves import spread, wavefronts

_WORTH = 0.9
"""Predicted times that lie closer together than this say nothing of which kernels are faster."""
_ANOTHER = 0.7
"""The same where there are other kernels for the operators: each one more is code, and finds no weights where another
has kept them."""


def selected(
    operators: Sequence[ROperator],
    session: Session,
    device: VDevice,
    levels: Levels,
    envelope: Envelope,
    rtask: RTaskSeconds,
) -> list[ROperator]:
    """The operators with the kernels that suit the wavefronts which they stand in, as far as the envelope has room.

    The largest wavefronts come first; the others take the same kernels where these do not make them much slower, for
    every kernel is code.
    """
    found = list(operators)
    taken: dict[str, TileChoice] = {}
    for wave in sorted(wavefronts(operators), key=len, reverse=True):
        keys = [x.planned.kernel.name for x in wave]
        known = [
            _with(x, taken[key], session, rtask) if taken.get(key, x.choice) != x.choice else x
            for x, key in zip(wave, keys, strict=True)
        ]
        for operator, key in zip(thrifty(wave, session, device, levels, envelope, rtask, known), keys, strict=True):
            found[operator.number] = operator
            taken.setdefault(key, operator.choice)
    return found


def thrifty(
    wave: list[ROperator],
    session: Session,
    device: VDevice,
    levels: Levels,
    envelope: Envelope,
    rtask: RTaskSeconds,
    known: list[ROperator] | None = None,
) -> list[ROperator]:
    """The operators of one wavefront, with kernels that need less of the device where it then ends earlier.

    Args:
        known: the operators with kernels that are there already, which are taken unless others are better.
    """
    first = known or wave
    tried = [wave]
    if len(wave) > 1 and sum(x.tasks for x in wave) > device.units:
        share = attrs.evolve(envelope, units=max(device.units // len(wave), 1))
        tried.append([_thrifty(x, session, envelope, rtask) for x in wave])
        tried.append([_within(x, session, share, rtask) for x in wave])
    seconds, best = min(((_seconds(x, device, levels), x) for x in tried), key=lambda x: x[0])
    worth = _WORTH if first == wave else _ANOTHER
    return best if seconds < worth * _seconds(first, device, levels) else first


def _seconds(wave: Sequence[ROperator], device: VDevice, levels: Levels) -> float:
    """Of a wave, with what stands between one operator's tasks and the next one's on a unit."""
    return spread(wave, device, Memory(levels, device.units), 0.0 if device.serial else device.barrier)[1]


def _thrifty(operator: ROperator, session: Session, envelope: Envelope, rtask: RTaskSeconds) -> ROperator:
    """The operator with the kernel of the least tasks × seconds."""

    def used(choice: TileChoice) -> float:
        return choice.resources.tasks * rtask(choice)

    own = operator.choice
    fitting = [x for x in operator.planned.choices if x.count is None and envelope.holds(x.resources)]
    best = min((own, *fitting), key=used)
    if best is own or used(best) >= used(own):
        return operator
    return _with(operator, best, session, rtask)


def _within(operator: ROperator, session: Session, share: Envelope, rtask: RTaskSeconds) -> ROperator:
    """The operator with the fastest kernel that has no more rTasks than `share` has units, if there is one."""
    own = operator.choice
    if own.resources.tasks <= share.units:
        return operator
    group = operator.planned.group

    def ask() -> tuple[TileChoice, ...]:
        try:
            return session.propose(group, attrs.evolve(session.request(), envelope=share))
        except UnsupportedError:
            return ()  # the proposer has none that is so small

    asked = session.analysis("rammer.within", (session.canonical(group).key, share), ask)
    fitting = [x for x in asked if x.count is None and x.resources.tasks <= share.units and share.holds(x.resources)]
    best = min(fitting, key=rtask, default=own)
    return operator if best is own else _with(operator, best, session, rtask)


def _with(operator: ROperator, choice: TileChoice, session: Session, rtask: RTaskSeconds) -> ROperator:
    return attrs.evolve(operator, planned=session.plan(operator.planned.group, choice), seconds=rtask(choice))
