"""What compilers say about kernels, beside what choices promise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tilewright.compiler import build_program
from tilewright.config.binding import Settings
from tilewright.ir.choice import TileChoice
from tilewright.ir.group import Group
from tilewright.ir.module import Module
from tilewright.testing import conformance


def check_registers(
    module: Module, group: Group, choices: Sequence[TileChoice], settings: Settings, folder: Path
) -> None:
    """Builds a copy of the module for each choice of the group: no more registers than promised, and none spilled."""
    program = conformance.copies(module, [(group, choice) for choice in choices], settings)
    facts = build_program(program, settings, folder).data["kernels"].values()
    assert len(facts) == len(choices)
    assert all(0 < k["registers"] <= c.resources.registers for k, c in zip(facts, choices, strict=True))
    assert not any(k["spill_bytes"] or k["stack_bytes"] for k in facts)
