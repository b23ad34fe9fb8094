"""What Rammer registers through Tilewright's hooks."""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.plugins import Options, SlotValue, hookimpl

TILEWRIGHT_API = 1


@hookimpl
def tilewright_slots() -> Iterable[SlotValue]:
    """The scheduler."""
    yield SlotValue("schedule", "rammer", "tilewright_rammer.schedule:make", options="rammer")


@hookimpl
def tilewright_options() -> Iterable[Options]:
    """The table `[options.rammer]`."""
    yield Options("rammer", "tilewright_rammer.options:RammerOptions")
