"""Functions that call each other: what they are on the host, and what the units of launches run when these call them.

Functions of which one calls another have one level: the host runs them, or launches call them, whose units run each
call together. How often a recursion calls is not known; a number is assumed, which is the same at every level.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from tilewright.ir import dtypes
from tilewright.ir.bounds import bounds_of
from tilewright.ir.choice import Resources
from tilewright.ir.program import Envelope, HostStep, Part
from tilewright.ir.verify.calls import by_first
from tilewright.planning.session import Session
from tilewright.planning.storage import touched
from tilewright_grinder.placement.forks import widths
from tilewright_grinder.placement.lift import Called, Lifter, Refused, places_in
from tilewright_grinder.placement.limits import calling_envelope, needs_of, outside


@attrs.frozen
class Recursion:
    """What functions that call each other become.

    Args:
        level: "host"; "grid" or "block": what all units of launches run that call them, or the only one.
        seconds: predicted for each level, of a call from outside with all calls that follow from it.
        refused: why other levels are not possible.
        bodies: of each function; nothing where the host runs them.
        called: what launches need that call them, of each function.
        inside: the level of each loop and branch inside.
        threads: that units have at most; 0: no matter.
    """

    level: str
    seconds: Mapping[str, float]
    refused: Mapping[str, str] = attrs.field(factory=dict)
    bodies: Mapping[str, tuple[Part, ...]] = attrs.field(factory=dict)
    called: Mapping[str, Called] = attrs.field(factory=dict)
    inside: Mapping[str, str] = attrs.field(factory=dict)
    threads: int = 0


def component(function: str, graph: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The functions that a function is connected with by calls, in the order of the graph."""
    found = {function}
    grown = True
    while grown:
        more = {x for name, called in graph.items() for x in (name, *called) if found & {name, *called}}
        grown, found = not more <= found, found | more
    return tuple(x for x in graph if x in found)


def procedures(
    bodies: Mapping[str, Sequence[HostStep]],
    lifters: Mapping[str, Lifter],
    session: Session,
    alone: bool,
    levels: int = 0,
) -> tuple[Mapping[str, tuple[Part, ...]], Mapping[str, Called]] | Refused:
    """What launches call in place of functions that are these host steps, and what such launches need.

    Args:
        lifters: of each function.
        alone: one unit runs them.
        levels: of forks, for which there shall be units enough.
    """
    for name, steps in bodies.items():
        why = outside(steps, session, lifters[name].value_of, bodies)
        if why:
            return Refused(why if why.startswith("it ") else f"in {name}, {why}")
    needs = [needs_of(x, session) for x in bodies.values()]
    envelope = calling_envelope(needs, 1, session, alone)
    if isinstance(envelope, str):
        return Refused(envelope)
    made = _on(envelope.units, bodies, lifters)
    if isinstance(made, Refused):
        return made
    found = widths(made.values()) if levels else ()
    more = calling_envelope(needs, min(found[0] ** levels, session.device.units), session, alone) if found else envelope
    if isinstance(more, Envelope) and more.units > envelope.units:
        envelope, made = more, _on(more.units, bodies, lifters)
        assert not isinstance(made, Refused)  # nothing that is refused depends on the number of units
    sites = sum(places_in(x, bool(widths((x,)))) for x in made.values())
    direct = {name: by_first(parts[0]) for name, parts in made.items()}
    made = {name: lifters[name].hastened(parts, direct.__getitem__) for name, parts in made.items()}
    return made, {x: Called(envelope.units, together(needs), sites, direct[x]) for x in bodies}


def _on(
    units: int, bodies: Mapping[str, Sequence[HostStep]], lifters: Mapping[str, Lifter]
) -> dict[str, tuple[Part, ...]] | Refused:
    """What so many units run."""
    made: dict[str, tuple[Part, ...]] = {}
    for name, steps in bodies.items():
        parts = lifters[name].procedure(steps, units)
        if isinstance(parts, Refused):
            return parts
        made[name] = parts
    return made


def region_bytes(parts: Mapping[str, Sequence[Part]], lifters: Mapping[str, Lifter], session: Session) -> int:
    """Bytes of the frames of all calls that may be active in a region, and of what else is there; rather too many."""
    symbols = {x.name: x.interval for x in session.symbols}
    found = [1]
    for name, body in parts.items():
        values = {x: lifters[name].value_of(x) for x in touched(body) if x not in session.constants | session.inputs}
        sizes = (bounds_of(x.num_elements(), symbols).high * dtypes.size_of(x.dtype) for x in values.values() if x)
        found.append(sum(sizes))
    return max(found) * (session.functions.depth + 1)


def together(needs: Iterable[Resources]) -> Resources:
    """What a unit needs that can run any of some tasks."""
    found = list(needs)
    names = ("tasks", "threads", "registers", "shared_bytes")
    return Resources(*(max(getattr(x, name) for x in found) for name in names))
