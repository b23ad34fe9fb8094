"""What keeps control flow on the host, and what a launch occupies that has room for all that is inside."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence

import attrs

from tilewright.ir import dtypes
from tilewright.ir.bounds import bounds_of
from tilewright.ir.choice import Resources, TileChoice
from tilewright.ir.expr import Const
from tilewright.ir.ops import Value
from tilewright.ir.program import Envelope, HostCall, HostCopy, HostStep, Task, calls, host_leaves, launches
from tilewright.ir.verify.tree import tasks_of
from tilewright.planning.session import Session
from tilewright.planning.timeline import in_unit_seconds

_RESERVED = 16
MOST_BYTES = 1 << 30
"""Bytes of a value that units copy: they count them in 32 bits."""


ValueOf = Callable[[str], Value | None]
"""The value that stands in a place, by the place's name, as far as that is known."""


def outside(steps: Sequence[HostStep], session: Session, value_of: ValueOf, called: Container[str] = ()) -> str:
    """Why these steps cannot be part of a launch, "" where they can.

    Args:
        called: functions that launches call.
    """
    if not session.device.cooperative:
        return f"{session.device.name} does not promise that units are at work at once, so its launches hold no control"
    for call in calls(steps):
        if call.procedure not in called:
            return f"it calls {call.procedure}, which runs on the host"
    embeddable = {x.name for x in session.recipes if x.embeddable}
    for task in _tasks(steps):
        recipe = session.table.kernels[task.kernel].choice.recipe
        if recipe not in embeddable:
            return f"kernels of recipe {recipe} cannot be part of another"
    return _copied(steps, session, value_of)


def _copied(steps: Sequence[HostStep], session: Session, value_of: ValueOf) -> str:
    symbols = {x.name: x.interval for x in session.symbols}
    for source in _sources(steps):
        value = value_of(source)
        if value is None:
            return f"how large {source} is, which it copies, is not known here"
        size = value.num_elements() * dtypes.size_of(value.dtype)
        if session.device.kind != "cpu" and not isinstance(size, Const):
            return f"the size of {source}, which it copies, depends on the shapes of a run"
        if bounds_of(size, symbols).high > MOST_BYTES:
            return f"it copies {source}, which has more than {MOST_BYTES} bytes"
    return ""


def _sources(steps: Sequence[HostStep]) -> Iterator[str]:
    """What is copied, or as large."""
    for step in host_leaves(steps):
        match step:
            case HostCopy():
                yield step.source
            case HostCall():
                yield from (*step.args, *step.results)


def _tasks(steps: Sequence[HostStep]) -> list[Task]:
    return [task for launch in launches(steps) for task in tasks_of(launch.body)]


def needs_of(steps: Sequence[HostStep], session: Session) -> Resources:
    """What a unit needs that can run any task of some steps, and how many units can be busy at once."""
    found = [session.table.kernels[x.kernel].choice.resources for x in _tasks(steps)]
    tasks, threads, registers, shared = (
        max((getattr(x, name) for x in found), default=1) for name in ("tasks", "threads", "registers", "shared_bytes")
    )
    merged = (x.envelope.units for x in launches(steps) if x.only_task is None)
    return Resources(max(tasks, *merged, 1), max(threads, 1), registers, shared if found else 0)


def reserved(session: Session) -> int:
    """Registers of a thread that a unit goes through its records with while kernels have theirs.

    Without them a GPU's compiler puts these into memory, and what lies between two tasks takes twice as long.
    """
    return _RESERVED if session.device.kind == "cuda" else 0


class NoRoomError(Exception):
    """No kernel for a group fits."""


def fitting(
    choices: Sequence[TileChoice], threads: int, session: Session, resident: bool = False
) -> tuple[TileChoice, ...]:
    """The choices for units of so many threads that can be part of a launch, the quickest first.

    Args:
        resident: whether units keep the weights that tasks read in slices.

    Raises:
        NoRoomError: there is none.
    """
    device = session.device
    embeddable = {x.name for x in session.recipes if x.embeddable}
    merged = [x for x in choices if x.recipe in embeddable]
    if not merged:
        raise NoRoomError(f"kernels of recipe {choices[0].recipe} cannot be part of another")

    def fits(choice: TileChoice) -> bool:
        needs = choice.resources
        registers = needs.registers + reserved(session)
        return needs.threads <= threads and bool(device.blocks_held(threads, registers, needs.shared_bytes))

    found = [x for x in merged if fits(x)]
    if not found:
        best = merged[0].resources
        found_none = f"no unit has room for {best.threads} threads of {best.registers} registers beside other kernels"
        raise NoRoomError(found_none)

    def seconds(choice: TileChoice) -> float:
        near = choice.slice_bytes(len(choice.slices)) if resident else 0
        return -(-choice.resources.tasks // device.units) * in_unit_seconds(choice, device, near)

    return tuple(sorted(found, key=seconds))


def envelope_of(needs: Resources, session: Session, alone: bool) -> Envelope | str:
    """What the launch occupies, or why there can be none.

    Args:
        alone: one unit does all the work; else as many as the device holds at once, and have something to do.
    """
    device = session.device
    held = device.blocks_together(needs.threads, needs.registers + reserved(session), needs.shared_bytes)
    if not held:
        return f"no unit has room for its {needs.threads} threads of {needs.registers} registers at once"
    # Several units on a multiprocessor make meetings longer, and what they do no shorter.
    units = 1 if alone else min(held, device.units, device.units if device.kind == "cpu" else max(needs.tasks, 2))
    if not alone and units < 2:
        return "the device has one unit"
    return Envelope(units, needs.threads, needs.registers, needs.shared_bytes, cooperative=not alone)


STACK = 4096
"""Bytes of a unit's shared memory in which launches that make calls keep where these return to."""


def calling_envelope(needs: Sequence[Resources], units: int, session: Session, alone: bool) -> Envelope | str:
    """As `envelope_of`, of a launch that makes calls, with a stack.

    Args:
        needs: of the launch itself and of what it calls.
        units: that it has at least.
    """
    most = {x: max(getattr(y, x) for y in needs) for x in ("tasks", "threads", "registers", "shared_bytes")}
    plain = Envelope(1, shared_bytes=most["shared_bytes"], stack_bytes=STACK)
    most |= {"tasks": max(most["tasks"], units), "shared_bytes": plain.block_bytes}
    found = envelope_of(Resources(**most), session, alone)
    if isinstance(found, str):
        return found
    if found.units < units:
        return f"a procedure runs on {units} units, and {found.units} have room for what else it does"
    return attrs.evolve(found, shared_bytes=plain.shared_bytes, stack_bytes=STACK)
