"""What Welder registers through Tilewright's hooks."""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.plugins import Options, SlotValue, hookimpl

TILEWRIGHT_API = 1


@hookimpl
def tilewright_slots() -> Iterable[SlotValue]:
    """The connector."""
    yield SlotValue("connect", "welder", "tilewright_welder.connect:make", options="welder")


@hookimpl
def tilewright_options() -> Iterable[Options]:
    """The table `[options.welder]`."""
    yield Options("welder", "tilewright_welder.options:WelderOptions")
