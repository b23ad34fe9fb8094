"""The decision record: what each slot decided about each thing, and why.

Services give their reasons through `Session.decide`. What a service says nothing about is taken from its answer, so
that the record is complete whoever fills the slots.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from tilewright.ir.choice import TileChoice
from tilewright.ir.group import ControlItem, Cover, Group
from tilewright.ir.module import Module
from tilewright.ir.ops import If, Loop, Region, bodies
from tilewright.ir.program import Kernel, Launch, Storage
from tilewright.planning.requests import Decision

_log = logging.getLogger(__name__)

SHOWN = 8
"""Alternatives that one entry keeps, the best."""


class Record:
    """The entries of one compilation. What is decided again replaces what was decided before, as on a trial."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Decision] = {}

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The entries, in the order in which they became final."""
        return tuple(self._entries.values())

    def add(self, decision: Decision) -> None:
        """Adds an entry, in place of an earlier one of its slot and subject."""
        key = (decision.slot, decision.subject)
        self._entries.pop(key, None)
        self._entries[key] = decision
        _log.debug("%s of %s: %s %s", decision.slot, decision.subject, decision.chosen, decision.why)

    def _complete(self, slot: str, subject: str, chosen: Any) -> None:
        if (slot, subject) not in self._entries:
            self.add(Decision(slot, subject, chosen))

    def choice(self, group: Group, kernel: Kernel, chosen: TileChoice, choices: Sequence[TileChoice]) -> None:
        """The tile choice of a group, among those that were proposed."""
        others = [c for c in choices if c is not chosen]
        self.add(
            Decision(
                "propose",
                group.name,
                {"recipe": chosen.recipe, "params": chosen.as_dict(), "kernel": kernel.name},
                tuple({"recipe": c.recipe, "params": c.as_dict()} for c in others[:SHOWN]),
                (chosen.cost, *(c.cost for c in others[:SHOWN])),
                chosen.why,
            )
        )

    def rewritten(self, before: Module, after: Module) -> None:
        """What became of the control flow of a module."""
        found, left = control_in(before.main.body), control_in(after.main.body)
        self._complete("control_rewrite", "module", left if found == left else {"before": found, "after": left})

    def cover(self, cover: Cover) -> None:
        """Which kernel each operator of a region stands in, in its bodies too."""
        for item in cover.items:
            if isinstance(item, ControlItem):
                for body in item.bodies:
                    self.cover(body)
            else:
                for op in item.ops:
                    self._complete("connect", op.name, in_kernel(item.name))

    def launches(self, launches: Sequence[Launch]) -> None:
        """The shape of each launch."""
        for launch in launches:
            self._complete("schedule", launch.name, shape_of(launch))

    def placed(self, cover: Cover) -> None:
        """Where each loop and branch of a region runs."""
        for item in cover.items:
            if isinstance(item, ControlItem):
                self._complete("control_place", item.name, "placed")
                for body in item.bodies:
                    self.placed(body)

    def storage(self, storage: Storage, workspace: str) -> None:
        """How much memory the program takes, and how much it would take if no two values shared a place."""
        weights = sum(buffer.bytes for buffer in storage.buffers.values() if buffer.kind == "weight")
        shared = [x for x in storage.placements.values() if x.buffer == workspace]
        self.add(
            Decision(
                "storage",
                workspace,
                {"peak_bytes": storage.buffers[workspace].bytes, "values": len(shared), "weight_bytes": weights},
                ({"bytes_without_sharing": sum(x.bytes for x in shared)},),
                why="values that are never alive together share a place",
            )
        )


def in_kernel(name: str) -> dict[str, str]:
    """How an entry says that an operator stands in a kernel."""
    return {"kernel": name}


def shape_of(launch: Launch) -> dict[str, int]:
    """How an entry describes a launch: what it occupies, phases and grid control at the top, and levels of forks."""
    found = {"units": launch.envelope.units, "threads": launch.envelope.threads, "steps": len(launch.body)}
    return found | ({"forks": launch.subgrids.levels} if launch.subgrids.levels else {})


def control_in(region: Region) -> dict[str, int]:
    """Numbers of loops and branches in a region, nested ones included."""
    found = {"loops": 0, "branches": 0}
    for op in region.ops:
        found["loops"] += isinstance(op, Loop)
        found["branches"] += isinstance(op, If)
        for body in bodies(op):
            for kind, count in control_in(body).items():
                found[kind] += count
    return found
