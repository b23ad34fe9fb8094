"""Places of values that live inside one launch: two of them share bytes where one is surely done with before the other.

A launch whose units wait for each other is one host step, however many kernels it runs. What comes before what in it
follows from its barriers, from program order and from waits, as clocks tell: how many items of each unit are done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.ir.expr import Const, Expr
from tilewright.ir.program import Fetch, Item, Kernel, Launch, Phase, Signal, Task, Wait

_MOST = 400_000_000
"""Comparisons of clocks, about a second: a launch that would need more shares no bytes."""

_NEVER = np.iinfo(np.int32).max

Clock = npt.NDArray[np.int32]


@attrs.define
class _Touched:
    """A value's uses in a launch.

    Attributes:
        born: what is surely done before anything is written to it.
        gone: of each unit how many items must be done before its last use is over.
    """

    born: Clock
    gone: Clock


def conflicts_within(
    launch: Launch, kernels: Mapping[str, Kernel], names: Sequence[str]
) -> npt.NDArray[np.bool_] | None:
    """[i, j]: whether two values that live in a launch may be alive at one time; None where nothing is known.

    Args:
        names: of the values.
    """
    if not all(isinstance(part, Phase) for part in launch.body):
        return None
    played = _Played(launch, kernels)
    if not played.known or len(names) ** 2 * played.units > _MOST or any(x not in played.touched for x in names):
        return None
    born = np.stack([played.touched[x].born for x in names])
    if (born == _NEVER).any():
        return None
    gone = np.stack([played.touched[x].gone for x in names])
    found = np.ones((len(names), len(names)), np.bool_)
    for i in range(len(names)):
        found[i] = ~(gone[i] <= born).all(axis=1)  # i is not surely over when the others begin
    return found & found.T


class _Played:
    """The clocks of a launch, in one order in which its items can run.

    Attributes:
        known: whether every item has fixed numbers, and every wait is met.
        touched: uses by the value's name.
    """

    def __init__(self, launch: Launch, kernels: Mapping[str, Kernel]) -> None:
        self.touched: dict[str, _Touched] = {}
        self._kernels = kernels
        phases = [[*_units(part)] for part in launch.body if isinstance(part, Phase)]
        numbers = sorted({unit for phase in phases for unit, _ in phase})
        self._index = {unit: i for i, unit in enumerate(numbers)}
        self.units = len(numbers)
        self._done = np.zeros(self.units, np.int32)
        self._sent: dict[tuple[str, int], int] = {}
        self._met: dict[tuple[str, int], Clock] = {}
        self.known = all(_fixed(x) for phase in phases for _, items in phase for x in items)
        if self.known:
            signals = Counter(_key(x) for phase in phases for _, items in phase for x in items if isinstance(x, Signal))
            self.known = all(self._phase(phase, signals) for phase in phases)

    def _phase(self, phase: Sequence[tuple[int, Sequence[Item]]], signals: Mapping[tuple[str, int], int]) -> bool:
        """Plays a phase, at whose beginning all that came before is done; whether all of it can run."""
        start = self._done.copy()
        clocks = {unit: start.copy() for unit, _ in phase}
        at = dict.fromkeys(clocks, 0)
        items = dict(phase)
        stuck: dict[tuple[str, int], list[int]] = {}
        ready = [unit for unit, _ in phase]
        while ready:
            unit = ready.pop()
            clock, mine = clocks[unit], self._index[unit]
            while at[unit] < len(items[unit]):
                item = items[unit][at[unit]]
                if isinstance(item, Wait):
                    target, key = _number(item.target), _key(item)
                    if self._sent.get(key, 0) < target:
                        stuck.setdefault(key, []).append(unit)
                        break
                    if 0 < signals[key] <= target:  # of fewer it is not certain which have come
                        np.maximum(clock, self._met[key], out=clock)
                at[unit] += 1
                clock[mine] = start[mine] + at[unit]
                if isinstance(item, Task):
                    self._touch(item, clock, mine)
                elif isinstance(item, Signal):
                    key = _key(item)
                    self._sent[key] = self._sent.get(key, 0) + 1
                    np.maximum(self._met.setdefault(key, clock.copy()), clock, out=self._met[key])
                    ready += stuck.pop(key, [])
        for unit, count in at.items():
            self._done[self._index[unit]] += count
        return not stuck

    def _touch(self, task: Task, clock: Clock, unit: int) -> None:
        written = len(task.args) - len(self._kernels[task.kernel].group.outputs)
        for i, name in enumerate(task.args):
            touched = self.touched.get(name)
            if touched is None:
                every = np.full(self.units, _NEVER, np.int32)
                touched = self.touched[name] = _Touched(every, np.zeros(self.units, np.int32))
            touched.gone[unit] = max(touched.gone[unit], clock[unit])
            if i >= written:
                before = clock.copy()
                before[unit] -= 1
                np.minimum(touched.born, before, out=touched.born)


def _units(phase: Phase) -> Iterator[tuple[int, Sequence[Item]]]:
    for lane in phase.lanes:
        for unit in range(lane.first, lane.first + _number(lane.units)) if isinstance(lane.units, Const) else ():
            yield unit, lane.items


def _fixed(item: Item) -> bool:
    """Whether an item says the same on every unit and in every run, as far as order goes."""
    match item:
        case Task() | Fetch():
            return True
        case Signal():
            return isinstance(item.index, Const)
        case Wait():
            return isinstance(item.index, Const) and isinstance(item.target, Const)
    return False


def _key(item: Signal | Wait) -> tuple[str, int]:
    return item.event, _number(item.index)


def _number(expr: Expr) -> int:
    assert isinstance(expr, Const)
    return int(expr.value)
