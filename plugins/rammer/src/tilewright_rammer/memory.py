"""Where the weights of rTasks come from: the unit's own cache, a cache that all units share, or the farthest memory.

The predicted seconds of a kernel are those of a launch alone, which fetches all its operands from the farthest memory.
In a sequence weights come again, and then from nearer; and tasks of several operators side by side share what is far.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Set

import attrs

from tilewright.device import DeviceModel
from tilewright_rammer.homes import Homes, slices_of
from tilewright_rammer.operators import ROperator

_LEAST = 0.1
"""Share of its seconds that an rTask takes at least, however near its weights are."""
_IN_FLIGHT = 8
"""Bytes that each thread of a GPU's unit has asked for while it waits for the farthest memory: on an H200 units of 768
threads that stream weights took 9 GB/s each, whether one or two of them stood on a multiprocessor."""
_STREAMED = 0.6
"""Share of its bandwidth that a GPU's common cache has for what no unit reads twice: 5.9 TB/s of an H200's."""


@attrs.frozen
class Levels:
    """Seconds per byte of the memories, all units together.

    Args:
        far: of the farthest memory.
        shared: of the one that holds all weights of a launch.
        own: of the units' own caches.
        link: that a unit needs longer for what is not in its own, even if no other asks.
        own_bytes: what the cache of one unit holds; 0 where it keeps nothing from one rTask to the next.
        waited: seconds per byte for each thread of a unit, which waits for what comes from the farthest memory.
        resident: weights that units keep whose tasks read them in slices.
        again: weights that are read more than once; units that keep them wait for them the first time only.
    """

    far: float
    shared: float
    own: float
    link: float
    own_bytes: int
    waited: float = 0.0
    resident: frozenset[str] = frozenset()
    again: frozenset[str] = frozenset()


def levels_of(
    device: DeviceModel,
    weight_bytes: int,
    kept: bool = True,
    resident: Iterable[str] = (),
    again: Iterable[str] = (),
) -> Levels:
    """The memories of a device, for a launch with so many bytes of weights.

    Args:
        kept: whether units may count on what they used before.
        resident: weights that units keep.
        again: weights that units keep once they have read them.
    """
    common = [x for x in device.levels if x.shared_by_units]
    holding = [x for x in common if x.bytes >= weight_bytes] or common[:1]
    own = next((x for x in device.levels if not x.shared_by_units), None)
    keeps = kept and own is not None and device.kind == "cpu"  # what a GPU's units keep, `homes` says
    shared = holding[-1].bandwidth * (1 if device.kind == "cpu" or holding[-1] is common[0] else _STREAMED)
    near = own.bandwidth if kept and own is not None else shared
    size = own.bytes if keeps and own is not None else 0
    # A multiprocessor takes 64 bytes a clock from the common cache, and 128 from its own memory.
    link = 1 / own.bandwidth if device.kind != "cpu" and kept and own is not None else 0.0
    waited = common[0].latency / _IN_FLIGHT if device.kind != "cpu" else 0.0
    kept_there = frozenset(resident), frozenset(again)
    return Levels(1 / common[0].bandwidth, 1 / shared, 1 / near, link, size, waited, *kept_there)


class Memory:
    """What lies where while rTasks run one after the other.

    Args:
        homes: which units keep what, where they have no caches that do so.

    Attributes:
        work: seconds that the memories which all units share have had to do so far.
    """

    def __init__(self, levels: Levels, units: int, homes: Homes | None = None) -> None:
        self.work = 0.0
        self._homes = homes
        self._levels = levels
        self._own = [_Cache(levels.own_bytes) for _ in range(units)]
        self._seen: set[str] = set()

    def holds(self, unit: int, operator: ROperator, first: int, count: int) -> float:
        """Bytes of the weights of some rTasks that lie in the unit's own cache."""
        near = None if self._homes is None else self._homes.of(operator, first, count).get(unit)
        if near is not None:
            return operator.choice.slice_bytes(near.count) * count
        resident = _in_slices(operator, self._levels.resident)
        if resident:
            return resident * count
        size = operator.weight_bytes * count
        return size if self._own[unit].holds((tuple(operator.weights), first, count)) else 0.0

    @property
    def keeps(self) -> bool:
        """Whether units have caches that keep weights."""
        return self._levels.own_bytes > 0

    def seconds(self, unit: int, operator: ROperator, first: int, count: int) -> float:
        """Seconds of rTasks on a unit."""
        side_by_side = min(operator.tasks, len(self._own))
        seconds = operator.seconds * count
        near = self.holds(unit, operator, first, count)
        share = count / operator.tasks
        seen = self._seen_bytes(operator) * share - near
        levels = self._levels
        saved = near * (levels.far - levels.own) + max(seen, 0.0) * (levels.far - levels.shared)
        quicker = near * levels.link * len(self._own)
        fresh = operator.weight_bytes * count - near - max(seen, 0.0) - _in_slices(operator, levels.again) * count
        waited = max(fresh, 0.0) * levels.waited / max(operator.choice.resources.threads, 1)
        return max(seconds - max(saved * side_by_side, quicker), seconds * _LEAST, operator.least * count, waited)

    def _seen_bytes(self, operator: ROperator) -> int:
        """Bytes of an operator's weights that were fetched before."""
        return sum(x for name, x in operator.weights.items() if name in self._seen)

    def use(self, unit: int, operator: ROperator, first: int, count: int) -> None:
        """Runs rTasks on a unit, which has their weights near it then."""
        self._own[unit].use((tuple(operator.weights), first, count), operator.weight_bytes * count)

    def fetch(self, operator: ROperator, near: float) -> None:
        """Adds what an operator moves to the work of the memories that all units share.

        Args:
            near: bytes that come from the units' own caches.
        """
        levels = self._levels
        seen = self._seen_bytes(operator)
        self.work += (operator.bytes - seen) * levels.far + max(seen - near, 0.0) * levels.shared
        self._seen.update(operator.weights)


def _in_slices(operator: ROperator, weights: Set[str]) -> int:
    """Bytes that one rTask reads in slices, if all of them are of these weights; else 0."""
    slices = slices_of(operator) if weights else ()
    whole = all(name in weights for name, _, _ in slices)
    return operator.choice.slice_bytes(len(slices)) if slices and whole else 0


Slice = tuple[tuple[str, ...], int, int]
"""The names of weights, and the first and the number of the rTasks that share them out."""


class _Cache:
    """What lies in the cache of one unit: the slices used last."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: OrderedDict[Slice, float] = OrderedDict()
        self._bytes = 0.0

    def holds(self, piece: Slice) -> bool:
        return piece in self._held

    def use(self, piece: Slice, size: float) -> None:
        """Brings a slice in, and drops what was not used for longest."""
        if not size or size > self._size:
            return
        self._bytes += size - self._held.pop(piece, 0.0)
        self._held[piece] = size
        while self._bytes > self._size:
            self._bytes -= self._held.popitem(last=False)[1]
