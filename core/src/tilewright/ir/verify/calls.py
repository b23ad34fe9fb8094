"""Laws of calls that units make together: whom they may call, where they return to, and what is settled by then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tilewright.ir.calls import reachable
from tilewright.ir.program import (
    Fetch,
    GridControl,
    Part,
    Program,
    Signal,
    Wait,
    calls,
    every_call,
    launches,
)
from tilewright.ir.stack import STACK, STATUS, WORD, stack_words, table_bytes
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.tree import decides, leaves

LEVEL = (
    "the host calls procedures of the host, and units those whose bodies are parts; of launches those of the host tree "
    "make calls"
)
ROOM = (
    "a launch that makes calls has room in each unit for the table of where they return to, and buffers for the stack "
    "and for its status"
)
SETTLED = (
    "behind the last decision of a procedure that units run together stands a barrier: results are copied to where "
    "another unit may still read what it decides by"
)
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


def _check_parts(parts: Sequence[Part], place: Place) -> None:
    for item in leaves(parts):
        if isinstance(item, Fetch | Signal | Wait):
            raise place.broken(STAYS, f"it has a {type(item).__name__.lower()}")
    last = parts[-1:]
    if last and (found := last_decision(last[0])):
        raise place.broken(SETTLED, f"the decision by {found} may be the last thing that it does")


def last_decision(part: Part) -> str:
    """What a part may decide by after its last barrier; "" where that is nothing."""
    if not isinstance(part, GridControl):
        return ""
    if part.counter and decides(part):
        return " and ".join(map(repr, decides(part)))
    for side in (part.body,) if part.counter else (part.body, part.orelse):
        if not side and not part.counter:
            return repr(part.condition)
        if side and (found := last_decision(side[-1])):
            return found
    return ""


def _check_room(program: Program, place: Place) -> None:
    words = stack_words(program)
    for launch in launches(program.steps):
        if not launch.calls:
            continue
        there = place.at(f"launch {launch.name}")
        sites = len(launch.calls)
        sites += sum(len(every_call(program.procedures[x].parts)) for x in reached(launch.body, program))
        if launch.envelope.stack_bytes < table_bytes(sites):
            raise there.broken(ROOM, f"{sites} calls, and {launch.envelope.stack_bytes} bytes in each unit")
        for name, needed, owner in ((STATUS, WORD, "program"), (STACK, words * WORD, "frame")):
            buffer = program.storage.buffers.get(name)
            if buffer is None or buffer.kind != "event" or buffer.bytes < needed or buffer.owner != owner:
                found = "none" if buffer is None else f"{buffer.kind} of {buffer.bytes} bytes, of a {buffer.owner}"
                raise there.broken(ROOM, f"{name!r} needs {needed} bytes of kind event, of a {owner}, found {found}")
