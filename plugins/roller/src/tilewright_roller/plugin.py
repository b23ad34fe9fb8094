"""What Roller registers through Tilewright's hooks."""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.plugins import Options, SlotValue, hookimpl

TILEWRIGHT_API = 1


@hookimpl
def tilewright_slots() -> Iterable[SlotValue]:
    """The proposer, which asks for its own cost model unless configuration names another, and that model."""
    yield SlotValue(
        "propose", "roller", "tilewright_roller.propose:make", options="roller", prefers={"cost": "roller"}
    )
    yield SlotValue("cost", "roller", "tilewright_roller.cost:make")


@hookimpl
def tilewright_options() -> Iterable[Options]:
    """The table `[options.roller]`."""
    yield Options("roller", "tilewright_roller.options:RollerOptions")
