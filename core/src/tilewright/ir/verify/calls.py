"""Laws of calls that units make together: whom they may call, where they return to, and what is settled by then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tilewright.ir.calls import reachable
from tilewright.ir.expr import const
from tilewright.ir.program import (
    Fetch,
    GridCall,
    GridControl,
    Part,
    Phase,
    Program,
    Signal,
    Wait,
    calls,
    every_call,
    forks,
    launches,
)
from tilewright.ir.stack import STACK, STATUS, WORD, alone, stack_words, table_bytes
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.ordering import same_bytes
from tilewright.ir.verify.tree import conditions_of, leaves, operands, work_of

LEVEL = (
    "the host calls procedures of the host, and units those whose bodies are parts; of launches those of the host tree "
    "make calls"
)
ROOM = (
    "a launch that makes calls has room in each unit for the table of where they return to, or of what unit 0 tells it "
    "to do, and of the sub-grids that it is a part of, and buffers for the stack and for its status"
)
SETTLED = (
    "a barrier is the last thing in a procedure that units run together: results are copied to where another unit may "
    "still read what it decides by"
)
HASTE = (
    "no barrier stands between a call and the phase before or behind it, or the procedure's first, where unit 0 alone "
    "makes the copies between them, and where in these phases it alone touches what is copied, or what is not settled"
)
LED = "a launch that unit 0 leads makes calls, is cooperative, and its units fetch nothing, and neither signal nor wait"
STAYS = "a procedure that units run fetches nothing into their own memory, and neither signals nor waits"


def reached(parts: Iterable[Part], program: Program) -> tuple[str, ...]:
    """The procedures that calls in some parts may run."""
    graph = {name: [x.procedure for x in every_call(p.parts)] for name, p in program.procedures.items()}
    graph[""] = [x.procedure for x in every_call(parts)]
    return tuple(x for x in reachable(graph, "") if x in program.procedures)


def check_calls(program: Program, place: Place) -> None:
    """Refuses calls of procedures of the wrong kind, launches without room for calls, and decisions at an end."""
    for name, procedure in program.procedures.items():
        there = place.at(f"procedure {name}")
        if procedure.parts and procedure.host:
            raise there.broken(LEVEL, "its body has steps of the host and parts")
        if any(x.calls for x in launches(procedure.host)):
            raise there.broken(LEVEL, "a launch of it makes calls")
        _check_parts(procedure.parts, there)
    for name in (x.procedure for x in calls(program.steps)):
        if program.procedures[name].parts:
            raise place.at(f"call {name}").broken(LEVEL, "the host calls what units run")
    for name in (x.procedure for x in every_call(program.parts)):
        if program.procedures[name].host:
            raise place.at(f"call {name}").broken(LEVEL, "units call what the host runs")
    _check_room(program, place)
    for launch in (x for x in launches(program.steps) if x.led):
        there = place.at(f"launch {launch.name}")
        if not launch.calls or not launch.envelope.cooperative:
            raise there.broken(LED, f"it makes {len(launch.calls)} calls on {launch.envelope.units} units")
        for item in leaves(launch.body):
            if isinstance(item, Fetch | Signal | Wait):
                raise there.broken(LED, f"it has a {type(item).__name__.lower()}")


def _check_parts(parts: Sequence[Part], place: Place) -> None:
    for item in leaves(parts):
        if isinstance(item, Fetch | Signal | Wait):
            raise place.broken(STAYS, f"it has a {type(item).__name__.lower()}")
    if parts and not settles(parts[-1:]):
        raise place.broken(SETTLED, "it may end with a loop, or with a branch that does nothing")


def settles(parts: Sequence[Part]) -> bool:
    """Whether a barrier is the last thing that units meet in some parts, whatever they decide."""
    if not parts:
        return False
    last = parts[-1]
    if isinstance(last, GridControl):
        return not last.counter and settles(last.body) and settles(last.orelse)
    return True


def runs_in(parts: Sequence[Part]) -> int:
    """How many times other units than unit 0 have something to do in some parts, for some phases in a row."""
    found = 0
    for at, part in enumerate(parts):
        if isinstance(part, GridControl):
            found += runs_in(part.body) + runs_in(part.orelse)
        found += isinstance(part, Phase) and not by_first(part) and (at == 0 or not wide(parts[at - 1]))
    return found


def wide(part: Part) -> bool:
    """Whether a part is a phase in which other units than unit 0 do something."""
    return isinstance(part, Phase) and not by_first(part)


def places(parts: Sequence[Part], led: bool, apart: bool) -> int:
    """Places in the tables of units that parts need: where calls return to, or what unit 0 may tell the others.

    Args:
        led: whether it tells them.
        apart: whether calls of forks may run side by side. Then any unit may lead others, and has places for both; and
            a fork stands in the text once for each way, and has a place where it begins.
    """
    calls, runs = len(every_call(parts)), runs_in(parts) if led else 0
    if not apart:
        return max(calls, runs)
    return calls + runs + sum(len(x.calls) + 1 for x in forks(parts))


def check_haste(before: Part | None, part: Part | None, program: Program, place: Place) -> None:
    """Refuses a part that begins without a barrier where it needs one, and an end without a barrier."""
    early = isinstance(part, GridCall) and part.early
    late = isinstance(before, GridCall) and before.late
    if early and not isinstance(before, Phase):
        raise place.broken(HASTE, "a call is early, and no phase is before it")
    if early and isinstance(before, Phase) and isinstance(part, GridCall):
        _check_alone(part.args, before, program, place, writes=True)
    if isinstance(part, GridCall) and part.direct:
        _check_alone(part.args, part, program, place, writes=False)
        (first,) = program.procedures[part.procedure].parts[:1] or (None,)
        if not by_first(first) or (early and not by_first(before)):
            raise place.broken(HASTE, f"{part.procedure} is called directly, and other units than unit 0 are at work")
    if late and isinstance(before, GridCall):
        if not isinstance(part, Phase | GridCall):
            raise place.broken(HASTE, f"no phase or call is behind the call of {before.procedure}, which is late")
        _check_alone(before.results, part, program, place, writes=False)
        if isinstance(part, GridCall):
            _check_alone(part.args, part, program, place, writes=False)


def by_first(part: Part | None) -> bool:
    """Whether a part is a phase in which unit 0 alone does something."""
    return isinstance(part, Phase) and all(x.first == 0 and x.units == const(1) for x in part.lanes)


def _check_alone(names: Sequence[str], part: Part, program: Program, place: Place, writes: bool) -> None:
    """Refuses copies that several units make, or of values that other units than unit 0 touch in a phase.

    Args:
        writes: only what is written there counts.
    """
    places = [program.storage.placements[x] for x in names]
    for found in places:
        if not alone(found.bytes):
            raise place.broken(HASTE, f"{found.value.name!r} has {found.bytes} bytes, which several units copy")
    for lane in part.lanes if isinstance(part, Phase) else ():
        if lane.first == 0 and lane.units == const(1):
            continue
        mine = Phase((lane,))
        touched = [(x, False) for x in conditions_of((mine,)) if not writes]
        touched += [x for work in work_of((mine,)) for x in operands(work, program.kernels) if x[1] or not writes]
        for name, _ in touched:
            if any(same_bytes(program.storage.placements[name], x) for x in places):
                raise place.broken(HASTE, f"units from {lane.first} on touch {name!r}, which unit 0 copies")


def _check_room(program: Program, place: Place) -> None:
    words = stack_words(program)
    for launch in launches(program.steps):
        if not launch.calls:
            continue
        there = place.at(f"launch {launch.name}")
        bodies = (launch.body, *(program.procedures[x].parts for x in reached(launch.body, program)))
        levels = launch.subgrids.levels
        sites = sum(places(x, launch.led, levels > 0) for x in bodies)
        if launch.envelope.stack_bytes < table_bytes(sites, levels):
            raise there.broken(ROOM, f"{sites} places, and {launch.envelope.stack_bytes} bytes in each unit")
        for name, needed, owner in ((STATUS, WORD, "program"), (STACK, words * WORD, "frame")):
            buffer = program.storage.buffers.get(name)
            if buffer is None or buffer.kind != "event" or buffer.bytes < needed or buffer.owner != owner:
                found = "none" if buffer is None else f"{buffer.kind} of {buffer.bytes} bytes, of a {buffer.owner}"
                raise there.broken(ROOM, f"{name!r} needs {needed} bytes of kind event, of a {owner}, found {found}")
