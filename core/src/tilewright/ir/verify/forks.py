"""Laws of forks: calls that may be at work at one time need nothing of each other, and write where nobody else does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tilewright.ir.program import Fork, GridCall, Program, forks, launches
from tilewright.ir.subgrids import MOST_CALLS
from tilewright.ir.verify.calls import reached
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.ordering import same_bytes
from tilewright.ir.verify.tree import Touch

FORK = (
    "a fork has two calls or more, of which none takes, reads or gives what another gives, and all barriers stand "
    "around them"
)
SUBGRIDS = (
    "a launch whose forks run calls side by side is led, and says of how many calls these are, in ascending order, "
    f"2 to {MOST_CALLS}"
)
APART = "what procedures write that run side by side stands in frames, or in what a region owns"


def check_fork(fork: Fork, program: Program, place: Place) -> None:
    """Refuses calls that depend on each other, or on barriers that are left out."""
    if len(fork.calls) < 2:
        raise place.broken(FORK, f"it has {len(fork.calls)} calls")
    for call in fork.calls:
        if call.early or call.direct or call.late:
            raise place.broken(FORK, f"the call of {call.procedure} is made in haste")
        for other in fork.calls:
            for name, result in _clashing(call, other, program) if other is not call else ():
                found = f"a call of {call.procedure} needs {name!r}, and one of {other.procedure} gives {result!r}"
                raise place.broken(FORK, found)


def _clashing(call: GridCall, other: GridCall, program: Program) -> Iterator[tuple[str, str]]:
    """What a call touches in bytes that another one writes."""
    places = program.storage.placements
    for name in (*call.args, *call.reads, *call.results):
        yield from ((name, x) for x in other.results if same_bytes(places[name], places[x]))


def check_subgrids(program: Program, touched: Sequence[Touch], place: Place) -> None:
    """Refuses calls side by side in launches that nobody leads, and of procedures that would write over each other."""
    for launch in launches(program.steps):
        how, there = launch.subgrids, place.at(f"launch {launch.name}")
        if not how.levels and not how.widths:
            continue
        wrong = list(how.widths) != sorted({*how.widths}) or not all(2 <= x <= MOST_CALLS for x in how.widths)
        if not launch.led or how.levels < 1 or not how.widths or wrong:
            led = "" if launch.led else "not "
            raise there.broken(SUBGRIDS, f"it is {led}led, and says {how.levels} levels of {list(how.widths)} calls")
        bodies = [launch.body, *(program.procedures[x].parts for x in reached(launch.body, program))]
        apart = [x for body in bodies for x in forks(body) if len(x.calls) in how.widths]
        inside = {x.procedure for fork in apart for x in fork.calls}
        inside |= {x for fork in apart for x in reached((fork,), program)}
        for touch in touched:
            owner = program.storage.buffers[program.storage.placements[touch.value].buffer].owner
            if touch.write and touch.procedure in inside and owner not in ("frame", "region"):
                raise there.broken(APART, f"{touch.procedure} writes {touch.value!r}, whose bytes the {owner} owns")
