"""An rProgram: what each vEU does, in which order, and when (section 3)."""

from __future__ import annotations

from itertools import pairwise

import attrs

from tilewright.ir.program import Near
from tilewright_rammer.operators import ROperator


@attrs.frozen
class Run:
    """rTasks `first` to `first + count - 1` of an operator on one unit, from `start` to `end` in predicted seconds.

    Args:
        waits: numbers of the operators whose signals the unit waits for first.
        near: which slices of weights the tasks find in the unit's own memory; None: they read all of the weights.
        fetches: whether the unit brings these slices there before.
    """

    operator: ROperator
    first: int
    count: int
    start: float
    end: float
    waits: tuple[int, ...] = ()
    near: Near | None = None
    fetches: bool = False


@attrs.frozen
class RProgram:
    """prog[vEU][order], in parts with a barrier between each two.

    Args:
        parts: for each part what each unit does, by unit.
        seconds: predicted, with the launch.
    """

    parts: tuple[tuple[tuple[Run, ...], ...], ...]
    seconds: float

    @property
    def runs(self) -> list[Run]:
        """All runs, part by part."""
        return [run for part in self.parts for unit in part for run in unit]


def shares(tasks: int, units: int) -> list[tuple[int, int]]:
    """The tasks that each of so many units runs, as (first, number), as equal as can be; no unit has none."""
    share = min(tasks, units)
    ends = [tasks * i // share for i in range(share + 1)]
    return [(a, b - a) for a, b in pairwise(ends)]
