"""rOperators: kernels in their places as independent rTasks, and the order that their values ask for (section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import attrs

from tilewright.ir import dtypes
from tilewright.ir.choice import TileChoice
from tilewright.ir.ops import Value
from tilewright.planning.requests import Planned
from tilewright.planning.session import Session

RTaskSeconds = Callable[[TileChoice], float]
"""Predicted seconds of one rTask of a kernel."""


@attrs.frozen
class ROperator:
    """One kernel in its place.

    Args:
        number: its place in the order that the operators came in.
        planned: group, choices, kernel and arguments.
        seconds: of one rTask, as long as the device is not crowded.
        before: numbers of the operators that must be done before it begins.
        bytes: that it moves, if each value that it names moves once.
        weights: the constants that it reads, by name, with their bytes.
        least: seconds that one rTask takes, however near its weights are.
    """

    number: int
    planned: Planned
    seconds: float
    before: tuple[int, ...]
    bytes: int = 0
    weights: Mapping[str, int] = attrs.field(factory=dict)
    least: float = 0.0

    @property
    def choice(self) -> TileChoice:
        return self.planned.kernel.choice

    @property
    def tasks(self) -> int:
        """Number of rTasks."""
        return self.choice.resources.tasks

    @property
    def weight_bytes(self) -> float:
        """Bytes of the constants that one rTask reads, if the rTasks share them out."""
        return sum(self.weights.values()) / self.tasks


def operators_of(planned: Sequence[Planned], session: Session, rtask: RTaskSeconds, least: float) -> list[ROperator]:
    """The rOperators of kernels that follow each other, with the dependences through the values they name.

    Args:
        rtask: seconds of one rTask.
        least: that it takes, however near its weights are.
    """
    found: list[ROperator] = []
    writer: dict[str, int] = {}
    readers: dict[str, list[int]] = {}
    for number, item in enumerate(planned):
        outputs = len(item.kernel.group.outputs)
        reads, writes = item.args[:-outputs], item.args[-outputs:]
        before: dict[int, None] = {}
        for name in reads:
            if name in writer:
                before[writer[name]] = None
        for name in writes:  # in the order that they came in: after who reads the old value, and who wrote it
            before |= dict.fromkeys(readers.pop(name, []))
            if name in writer:
                before[writer[name]] = None
        for name in reads:
            readers.setdefault(name, []).append(number)
        for name in writes:
            writer[name] = number
        before.pop(number, None)
        size = sum(map(_bytes, item.kernel.params))
        seconds = rtask(item.kernel.choice)
        found.append(ROperator(number, item, seconds, tuple(before), size, _weights(item, session), least))
    return found


def _weights(item: Planned, session: Session) -> dict[str, int]:
    params = zip(item.args, item.kernel.params, strict=True)
    return {name: _bytes(p) for name, p in params if name in session.constants or name in session.table.packed}


def _bytes(value: Value) -> int:
    return math.prod(value.static_shape()) * dtypes.size_of(value.dtype)
