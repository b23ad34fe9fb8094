"""Laws of frames: what a procedure needs after a call stands where the call cannot write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tilewright.ir.calls import reachable
from tilewright.ir.program import GridCall, Placement, Program, every_call, spans
from tilewright.ir.verify.laws import Place
from tilewright.ir.verify.tree import CallSite, Touch, call_sites

OWN = (
    "a procedure touches values of its own, within its own steps; what it reads besides are weights and what its calls "
    "say it reads of the host program"
)
FRAME = (
    "parameters of a procedure, and results that are its own, stand in its frame, and nothing of the host program "
    "stands in one, or in what a region owns"
)
ACROSS = "a value that is needed after a call stands in a frame, or in bytes that the call does not touch"


def check_frames(program: Program, touched: Sequence[Touch], place: Place) -> None:
    """Refuses values of procedures in places that other calls reach."""
    if not program.procedures:
        for placement in program.storage.placements.values():
            if program.storage.buffers[placement.buffer].owner in ("frame", "region"):
                raise place.at(f"value {placement.value.name}").broken(FRAME, "it stands in a frame of no procedure")
        return
    sites = call_sites(program)
    graph = {name: [x.procedure for x in every_call(procedure.body)] for name, procedure in program.procedures.items()}
    inside = {name: (name, *reachable(graph, name)) for name in program.procedures}
    _check_owners(program, touched, sites, inside, place)
    _check_frames(program, touched, place)
    _check_across(program, touched, sites, inside, place)


def of_host(program: Program, touched: Sequence[Touch]) -> set[str]:
    """The values of the host program: those that it touches itself, its inputs and its outputs."""
    return {x.value for x in touched if not x.procedure} | {x.name for x in (*program.inputs, *program.outputs)}


def _check_owners(
    program: Program,
    touched: Sequence[Touch],
    sites: Sequence[CallSite],
    inside: Mapping[str, Sequence[str]],
    place: Place,
) -> None:
    weights = set(program.weights)
    shared = of_host(program, touched)
    span = spans(program.body, program.procedures.values())
    for touch in touched:
        there = place.at(f"value {touch.value}")
        if touch.value in weights or not touch.procedure:
            continue
        if touch.value in shared:
            if touch.write:
                raise there.broken(OWN, f"procedure {touch.procedure} writes it, and the host program uses it")
            for site in sites:
                if touch.procedure in inside[site.call.procedure] and touch.value not in site.call.reads:
                    found = f"{touch.procedure} reads it, which the call in step {site.step} does not say"
                    raise there.broken(OWN, found)
            continue
        (first, last), placement = span[touch.procedure], program.storage.placements[touch.value]
        if placement.first < first or placement.last > last:
            lives = f"it lives in steps {placement.first} to {placement.last}"
            raise there.broken(OWN, f"{lives}, procedure {touch.procedure} has steps {first} to {last}")


def _check_frames(program: Program, touched: Sequence[Touch], place: Place) -> None:
    storage, elsewhere = program.storage, of_host(program, touched) | set(program.weights)
    for touch in touched:
        buffer = storage.buffers[storage.placements[touch.value].buffer]
        if not touch.procedure and buffer.owner in ("frame", "region"):
            raise place.at(f"value {touch.value}").broken(FRAME, f"step {touch.step} of the host program touches it")
    for name, procedure in program.procedures.items():
        for value in (*procedure.params, *procedure.results):
            owner = storage.buffers[storage.placements[value].buffer].owner
            if owner != "frame" and (value in procedure.params or value not in elsewhere):
                raise place.at(f"value {value}").broken(FRAME, f"{name} passes it, and the {owner} owns its bytes")


def _check_across(
    program: Program,
    touched: Sequence[Touch],
    sites: Sequence[CallSite],
    inside: Mapping[str, Sequence[str]],
    place: Place,
) -> None:
    storage, weights = program.storage, set(program.weights)
    touched_by: dict[str, dict[str, Placement]] = {}
    for touch in touched:
        if touch.value not in weights:
            touched_by.setdefault(touch.procedure, {})[touch.value] = storage.placements[touch.value]
    for site in sites:
        reached = [x for name in inside[site.call.procedure] for x in touched_by.get(name, {}).values()]
        for value in _needed(site, touched_by.get(site.procedure, {})):
            found = storage.placements[value]
            if storage.buffers[found.buffer].owner == "frame":
                continue
            for other in reached:
                read_only = value in site.call.reads and other.value.name == value
                if not read_only and _share(found, other):
                    what = f"the call of {site.call.procedure} in step {site.step} touches {other.value.name!r} there"
                    raise place.at(f"value {value}").broken(ACROSS, f"it lives to step {found.last}, and {what}")


def _needed(site: CallSite, own: Mapping[str, Placement]) -> Iterator[str]:
    """The values of the caller that must be whole while the call runs."""
    yield from site.call.reads
    if site.others or (isinstance(site.call, GridCall) and not site.procedure):
        # What other calls of a fork take and give, and what comes before and after a call of a launch, is in one step.
        yield from (name for name, x in own.items() if x.first <= site.step <= x.last)
        return
    yield from (name for name, x in own.items() if x.first < site.step < x.last)


def _share(a: Placement, b: Placement) -> bool:
    return a.buffer == b.buffer and a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes
