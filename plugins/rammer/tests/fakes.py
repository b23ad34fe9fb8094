"""Planned kernels without operators: a scheduler reads tasks, seconds and the names of values only."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.choice import Resources, TileChoice
from tilewright.ir.group import Group
from tilewright.ir.ops import Value, value
from tilewright.ir.program import Kernel
from tilewright.planning.requests import Planned
from tilewright_rammer.memory import Levels
from tilewright_rammer.operators import ROperator
from tilewright_rammer.vdevice import VDevice

TWO = VDevice(units=2, wait=0.5, crowd=0.0, barrier=1.0, launch=3.0, start=3.0, serial=False)
"""Two units; seconds are whole numbers here."""

NOTHING_KEPT = Levels(0.0, 0.0, 0.0, 0.0, 0)


def planned(name: str, reads: Sequence[str], writes: Sequence[str], tasks: int = 1, cost: float = 1.0) -> Planned:
    """A kernel that reads and writes single floats."""
    params = tuple(value(x, "float32", [1]) for x in (*reads, *writes))
    outputs: tuple[Value, ...] = params[len(reads) :]
    group = Group(name, (), outputs)
    choice = TileChoice("fake", {}, Resources(tasks, 32, 32), cost=cost)
    return Planned(group, (choice,), Kernel(name, group, choice, params), (*reads, *writes))


def operator(
    number: int,
    before: Sequence[int] = (),
    tasks: int = 1,
    seconds: float = 1.0,
    weights: dict[str, int] | None = None,
) -> ROperator:
    """An operator of so many rTasks of so many seconds."""
    item = planned(f"k{number}", ["x"], [f"v{number}"], tasks)
    return ROperator(number, item, seconds, tuple(before), 0, weights or {})
