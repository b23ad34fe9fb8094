"""What the conformance kits for schedulers and placers ask of every plan."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from tilewright.compiler import Plan, device_of, plan_module
from tilewright.config.binding import Settings
from tilewright.errors import TilewrightError
from tilewright.ir.module import Module
from tilewright.ir.serial import dump
from tilewright.ir.verify import verify_program


@attrs.frozen
class Broken:
    """A model for which the law was broken, and how."""

    model: str
    problem: str


def refused(plan: Plan, settings: Settings) -> Iterator[str]:
    """What the verifier says against a plan's program on its device, if anything."""
    try:
        verify_program(plan.program, device_of(settings))
    except TilewrightError as error:
        yield str(error)


def changed(plan: Plan, module: Module, settings: Settings) -> Iterator[str]:
    """That planning the module again gives another program, if it does."""
    if dump(plan_module(module, settings).program) != dump(plan.program):
        yield "asked again, it answers something else"
