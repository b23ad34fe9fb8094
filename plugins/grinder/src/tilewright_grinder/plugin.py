"""What Grinder registers through Tilewright's hooks."""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.plugins import Options, SlotValue, hookimpl

TILEWRIGHT_API = 1


@hookimpl
def tilewright_slots() -> Iterable[SlotValue]:
    """The rewriter of control flow, and what decides where it runs."""
    yield SlotValue("control_rewrite", "grinder", "tilewright_grinder.control_rewrite:make", options="grinder")
    yield SlotValue("control_place", "grinder", "tilewright_grinder.control_place:make", options="grinder")


@hookimpl
def tilewright_options() -> Iterable[Options]:
    """The table `[options.grinder]`."""
    yield Options("grinder", "tilewright_grinder.options:GrinderOptions")
