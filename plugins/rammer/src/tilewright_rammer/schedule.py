"""`schedule = "rammer"`: kernels become part of launches with others where that is predicted to pay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import attrs

from tilewright.errors import InputError
from tilewright.ir.program import Envelope, Launch
from tilewright.planning.own import room as memory_left
from tilewright.planning.record import shape_of
from tilewright.planning.requests import Planned, Request, Schedule
from tilewright.planning.schedule.one_kernel import launch_of as alone
from tilewright.planning.session import Session
from tilewright.planning.timeline import LEAST, least_seconds, task_seconds
from tilewright.planning.trial import Failure, Samples
from tilewright_rammer.homes import divided
from tilewright_rammer.kernels import selected
from tilewright_rammer.launches import micro, wave_launches
from tilewright_rammer.launching import launch_of
from tilewright_rammer.listing import listed
from tilewright_rammer.members import excluded
from tilewright_rammer.memory import Levels, levels_of
from tilewright_rammer.operators import ROperator, operators_of
from tilewright_rammer.options import MERGING, RammerOptions
from tilewright_rammer.plan import RProgram
from tilewright_rammer.vdevice import rooms_of, union, vdevice_in
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
                launches += _merged(run, request, options)
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


@attrs.frozen
class _Merge:
    """How kernels stand together on one vDevice.

    Args:
        envelope: what a launch of them occupies.
        programs: rPrograms with their operators.
    """

    envelope: Envelope
    programs: list[tuple[list[ROperator], RProgram]]


@attrs.frozen
class _Apart:
    """What merging is compared with.

    Args:
        each: predicted seconds of each operator as a launch of its own, by number.
        gain: see `RammerOptions`.
    """

    each: Sequence[float]
    gain: float

    def seconds(self, members: Sequence[ROperator]) -> float:
        """Of operators as launches of their own."""
        return sum(self.each[x.number] for x in members)

    def keeps(self, members: Sequence[ROperator], program: RProgram) -> bool:
        """Whether an rProgram saves enough."""
        return len(members) > 1 and program.seconds <= self.seconds(members) * (1 - self.gain)

    def total(self, merge: _Merge) -> float:
        """Seconds of all operators, where rPrograms that do not save enough fall apart."""
        return sum(p.seconds if self.keeps(m, p) else self.seconds(m) for m, p in merge.programs)


def _merged(run: Sequence[Planned], request: Request, options: RammerOptions) -> Iterator[Launch]:
    """The launches of kernels that can be merged."""
    session = request.session
    rooms = rooms_of(session.device, [x.kernel.choice.resources for x in run], len(run), request.envelope)
    if rooms[0].units < 2:
        why = "the device has one unit"
        yield from (_alone(x, session, why) for x in run)
        return
    operators = operators_of(run, session, partial(task_seconds, device=session.device), LEAST)
    each = one_by_one(operators, vdevice_in(session.device, rooms[0]), _levels(operators, request, options))
    apart = _Apart(each, options.gain)
    ways = _ways(options, session)
    if options.measure:
        merges = [_merge(run, room, request, way, apart) for room in rooms for way in ways]
        yield from _quickest(run, merges, session)
        return
    # Several units on a multiprocessor slow each other down, which no prediction knows: that is measured or not tried.
    best = min((_merge(run, rooms[0], request, way, apart) for way in ways), key=apart.total)
    for members, program in best.programs:
        separate = apart.seconds(members)
        if not apart.keeps(members, program):
            why = f"launches of their own take {micro(separate)}, together {micro(program.seconds)}"
            yield from (_alone(run[x.number], session, why) for x in members)
            continue
        launch = launch_of(program, members[0].planned.group.name, best.envelope)
        _record(launch, members, program, separate, session)
        yield launch


def _ways(options: RammerOptions, session: Session) -> list[RammerOptions]:
    """What is tried: each policy where the quickest is asked for.

    On a CPU only the list, unless merges are measured: waves do not follow the weights that its caches hold, which no
    prediction sees (an LSTM took three times as long).
    """
    if options.policy != "quickest":
        return [options]
    policies = MERGING if session.device.kind != "cpu" or options.measure else MERGING[:1]
    return [attrs.evolve(options, policy=x) for x in policies]


def _quickest(run: Sequence[Planned], merges: Sequence[_Merge], session: Session) -> Iterator[Launch]:
    """The launches of a run that are measured to be the quickest: apart, or merged in one of several ways."""
    variants: list[list[Launch]] = [[alone(x) for x in run]]
    for merge in merges:
        variants.append([
            launch_of(program, members[0].planned.group.name, merge.envelope)
            if len(members) > 1
            else alone(run[members[0].number])
            for members, program in merge.programs
        ])  # fmt: skip
    results = session.analysis("rammer.measured", _structure(run), lambda: session.measure_launches(run, variants))
    times = [x.median if isinstance(x, Samples) else math.inf for x in results]
    best = min(range(len(times)), key=times.__getitem__)
    if times[best] == math.inf:
        reasons = "; ".join(dict.fromkeys(" ".join(x.reason.split()) for x in results if isinstance(x, Failure)))
        raise InputError(
            f"[options.rammer] measure needs measurements on {session.target}, and no way to run {run[0].group.name} "
            f"and the {len(run) - 1} kernels behind it could be measured here: {reasons}",
            "Set measure = false to choose by the model, or compile on a machine with the device.",
        )
    told = ["cannot be measured" if x == math.inf else micro(x) for x in times]
    why = f"measured: apart {told[0]}, merged {', '.join(told[1:])}"
    costs = [times[best], times[0]]
    for launch in variants[best]:
        session.decide("schedule", launch.name, shape_of(launch), ["one-kernel-per-group"], costs, why)
        yield launch


def _structure(run: Sequence[Planned]) -> tuple[object, ...]:
    """What runs of kernels that can be measured together have in common."""
    numbers: dict[str, int] = {}
    return tuple((x.kernel.name, tuple(numbers.setdefault(a, len(numbers)) for a in x.args)) for x in run)


def _merge(run: Sequence[Planned], room: Envelope, request: Request, options: RammerOptions, apart: _Apart) -> _Merge:
    """The kernels on the vDevice of an envelope that has room for them.

    Kernels are selected wavefront by wavefront, and the schedule may keep no wavefronts; and tasks that go where their
    weights are may have to wait there. So schedules are made with the fastest kernels, too, and without homes, and what
    is predicted to be quicker is taken.
    """
    session = request.session
    device = vdevice_in(session.device, room)
    rtask = partial(task_seconds, device=session.device)
    operators = operators_of(run, session, rtask, least_seconds(session.device))
    levels = _levels(operators, request, options)
    kernels = [operators]
    if options.select:
        others = selected(operators, session, device, levels, room, rtask)
        if any(a.choice != b.choice for a, b in zip(operators, others, strict=True)):
            kernels.append(others)
    merges = [_scheduled(x, room, session, levels, options, apart) for x in kernels]
    if any(x.near is not None for merge in merges for _, program in merge.programs for x in program.runs):
        bare = attrs.evolve(options, keep=False)
        merges += [_scheduled(x, room, session, levels, bare, apart) for x in kernels]
    return min(merges, key=apart.total)


def _scheduled(
    operators: list[ROperator], room: Envelope, session: Session, levels: Levels, options: RammerOptions, apart: _Apart
) -> _Merge:
    whole = union(x.choice.resources for x in operators)
    needs = attrs.evolve(room, threads=whole.threads, registers=whole.registers, shared_bytes=whole.shared_bytes)
    device = vdevice_in(session.device, room)
    if options.policy == "waves":
        return _Merge(needs, wave_programs(operators, device, levels, apart.each))
    left = memory_left(needs, session.device)
    own = divided(left, operators, room.units, keep=options.keep, ahead=options.prefetch)
    return _Merge(needs, [(operators, listed(operators, device, levels, own))])


def _levels(operators: Sequence[ROperator], request: Request, options: RammerOptions) -> Levels:
    weights: dict[str, int] = {}
    for operator in operators:
        weights |= operator.weights
    times = Counter(name for x in operators for name in x.weights)
    again = (name for name, count in times.items() if count > 1 and options.keep)
    return levels_of(request.session.device, sum(weights.values()), options.placement, request.resident, again)


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
