"""The core's own slot values, registered through the hooks that every plugin uses."""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.plugins.hookspecs import hookimpl
from tilewright.plugins.records import Pass, SlotValue

TILEWRIGHT_API = 1


@hookimpl
def tilewright_slots() -> Iterable[SlotValue]:
    """The default of every slot, and the values that ablations compare it with."""
    yield SlotValue("control_rewrite", "identity", "tilewright.planning.control:identity")
    yield SlotValue("connect", "epilogue", "tilewright.planning.connect.epilogue:make")
    yield SlotValue("connect", "singletons", "tilewright.planning.connect.singletons:make")
    yield SlotValue("propose", "divisors", "tilewright.planning.propose.divisors:make")
    yield SlotValue("cost", "roofline", "tilewright.planning.cost.roofline:make")
    yield SlotValue("schedule", "one-kernel-per-group", "tilewright.planning.schedule.one_kernel:make")
    yield SlotValue("control_place", "host", "tilewright.planning.place.host:make")
    yield SlotValue("planner", "staged", "tilewright.planning.staged:make")


@hookimpl
def tilewright_passes() -> Iterable[Pass]:
    """Passes that tell more about a program."""
    yield Pass("trace", "tilewright.planning.tracing:traced", ("after.schedule",))
