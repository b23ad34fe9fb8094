"""`schedule = "rammer"`: kernels become part of launches with others where that is predicted to pay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tilewright.ir.program import Launch
from tilewright.planning.record import shape_of
from tilewright.planning.requests import Planned, Request, Schedule
from tilewright.planning.schedule.one_kernel import launch_of as alone
from tilewright.planning.session import Session
from tilewright_rammer.homes import room
from tilewright_rammer.kernels import selected
from tilewright_rammer.launches import micro, wave_launches
from tilewright_rammer.launching import launch_of
from tilewright_rammer.listing import listed
from tilewright_rammer.members import excluded
from tilewright_rammer.memory import Levels, levels_of
from tilewright_rammer.operators import ROperator, operators_of
from tilewright_rammer.options import RammerOptions
from tilewright_rammer.plan import RProgram
from tilewright_rammer.vdevice import VDevice, envelope_of, vdevice_of
from tilewright_rammer.waves import one_by_one, wave_programs


def make(options: RammerOptions) -> Schedule:
    """The service."""

    def schedule(planned: Sequence[Planned], request: Request) -> tuple[Launch, ...]:
        device = request.session.device
        if options.policy == "launches" or not device.cooperative:
            return tuple(wave_launches(planned, request.session, options))
        launches: list[Launch] = []
        for why, run in _runs(planned, excluded(planned, request.session), options.most):
            if why or len(run) < 2:
                launches += [_alone(x, request.session, why or "nothing stands beside it") for x in run]
            else:
                launches += _merged(run, request.session, options)
        return tuple(launches)

    return schedule


def _runs(planned: Sequence[Planned], why: Sequence[str], most: int) -> Iterator[tuple[str, list[Planned]]]:
    """Kernels that follow each other and can be rOperators; and those between them, with the reason."""
    run: list[Planned] = []
    for item, reason in zip(planned, why, strict=True):
        if run and (reason or len(run) == most):
            yield "", run
            run = []
        if reason:
            yield reason, [item]
        else:
            run.append(item)
    if run:
        yield "", run


def _merged(run: Sequence[Planned], session: Session, options: RammerOptions) -> Iterator[Launch]:
    """The launches of kernels that can be merged."""
    resources = [x.kernel.choice.resources for x in run]
    envelope = envelope_of(session.device, resources)
    device = vdevice_of(session.device, resources)
    if device.units < 2:
        why = "the device has one unit"
        yield from (_alone(x, session, why) for x in run)
        return
    operators = operators_of(run, session)
    levels = _levels(operators, session, options)
    apart = one_by_one(operators, device, levels)
    if options.select:
        operators = selected(operators, session, device, levels, envelope)
    kept = room(envelope, session.device) if options.keep else 0
    for members, program in _programs(operators, device, levels, options, kept):
        separate = sum(apart[x.number] for x in members)
        if len(members) < 2 or program.seconds > separate * (1 - options.gain):
            why = f"launches of their own take {micro(separate)}, together {micro(program.seconds)}"
            yield from (_alone(run[x.number], session, why) for x in members)
            continue
        launch = launch_of(program, members[0].planned.group.name, envelope)
        _record(launch, members, program, separate, session)
        yield launch


def _levels(operators: Sequence[ROperator], session: Session, options: RammerOptions) -> Levels:
    weights: dict[str, int] = {}
    for operator in operators:
        weights |= operator.weights
    return levels_of(session.device, sum(weights.values()), options.placement)


def _programs(
    operators: list[ROperator], device: VDevice, levels: Levels, options: RammerOptions, room: int
) -> list[tuple[list[ROperator], RProgram]]:
    if options.policy == "waves":
        return wave_programs(operators, device, levels)
    return [(operators, listed(operators, device, levels, room))]


def _alone(item: Planned, session: Session, why: str) -> Launch:
    launch = alone(item)
    session.decide("schedule", launch.name, shape_of(launch), costs=[item.kernel.choice.cost], why=why)
    return launch


def _record(launch: Launch, members: Sequence[ROperator], program: RProgram, separate: float, session: Session) -> None:
    runs = program.runs
    busy = sum(x.end - x.start for x in runs)
    chosen = {
        **shape_of(launch),
        "operators": len(members),
        "waits": sum(len(x.waits) for x in runs),
        "near": sum(x.near is not None for x in runs),
        "own_bytes": launch.envelope.own_bytes,
        "busy": round(busy / (program.seconds * launch.envelope.units), 3),
        "with": [x.planned.group.name for x in members[1:]],
    }
    why = f"launches of their own would take {micro(separate)}"
    session.decide("schedule", launch.name, chosen, ["one-kernel-per-group"], [program.seconds, separate], why)
