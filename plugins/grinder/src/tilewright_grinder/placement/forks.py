"""Calls that need nothing of each other are made side by side, each on a part of the grid.

After Cocktailer's division of the grid among the parallel calls of a recursion (`recursive_unroll_depth`). There depths
are tried out; here they are priced. How a recursion's calls are spread is not known. One call of each fork is assumed
to have the largest share of those that are left, as large as the longest piece of a stick that is broken at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from tilewright.ir.events import LINE
from tilewright.ir.program import (
    Fork,
    GridCall,
    HostCall,
    HostStep,
    Kernel,
    Part,
    forks,
)
from tilewright.ir.subgrids import MOST_CALLS, Subgrids
from tilewright.ir.verify.tree import touches_of

MOST_LEVELS = 5
"""Forks inside each other whose calls run side by side, at most."""
MOST_BYTES = 1 << 30
"""Bytes that frames, regions and what sub-grids meet in may take for it."""

Kernels = Mapping[str, Kernel]


@attrs.define
class _Uses:
    """Places that a step reads and that it writes."""

    reads: set[str] = attrs.field(factory=set)
    writes: set[str] = attrs.field(factory=set)

    def add(self, other: _Uses) -> None:
        self.reads |= other.reads
        self.writes |= other.writes

    def clash(self, other: _Uses) -> bool:
        """Whether the order of both matters."""
        return bool(self.writes & (other.reads | other.writes) or self.reads & other.writes)


def siblings(steps: Sequence[HostStep], kernels: Kernels) -> list[HostStep | tuple[HostCall, ...]]:
    """The steps with calls together that need nothing of each other; what stands between goes before or behind them."""
    made: list[HostStep | tuple[HostCall, ...]] = []
    rest = list(steps)
    while rest:
        at = next((i for i, x in enumerate(rest) if isinstance(x, HostCall)), len(rest))
        made += rest[:at]
        rest = rest[at:]
        if rest:
            ahead, group, rest = _first_group(rest, kernels)
            made += [*ahead, group if len(group) > 1 else group[0]]
    return made


def _first_group(
    steps: Sequence[HostStep], kernels: Kernels
) -> tuple[list[HostStep], tuple[HostCall, ...], list[HostStep]]:
    """What comes before the first call and those that go with it, these calls, and what comes behind.

    Args:
        steps: of which the first is a call.
    """
    uses = [_uses((x,), kernels) for x in steps]
    group, behind = _Uses(), _Uses()
    calls: list[int] = []
    free: list[int] = []
    for number, step in enumerate(steps):
        possible = not uses[number].clash(behind) and not uses[number].clash(group)
        if possible and isinstance(step, HostCall) and len(calls) < MOST_CALLS:
            calls.append(number)
            group.add(uses[number])
        elif possible and not isinstance(step, HostCall):
            free.append(number)
        else:
            behind.add(uses[number])
    ahead = [x for x in free if x < calls[-1]]
    left = [x for number, x in enumerate(steps) if number not in {*calls, *ahead}]
    found = tuple(x for number in calls if isinstance(x := steps[number], HostCall))
    return [steps[x] for x in ahead], found, left


def _uses(steps: Sequence[HostStep], kernels: Kernels) -> _Uses:
    found = _Uses()
    for touch in touches_of(steps, kernels):
        (found.writes if touch.write else found.reads).add(touch.value)
    return found


def widths(bodies: Iterable[Sequence[Part]]) -> tuple[int, ...]:
    """Numbers of calls of the forks in some bodies, in ascending order."""
    return tuple(sorted({len(x.calls) for body in bodies for x in forks(body)}))


def possible(found: Sequence[int], units: int, bytes_of_region: int) -> list[Subgrids]:
    """How forks of so many calls may divide so many units, fewer levels first.

    Args:
        bytes_of_region: of the frames of all calls in a region that may be active, and of what else is there.
    """
    made: list[Subgrids] = []
    for levels in range(1, MOST_LEVELS + 1) if found else ():
        how = Subgrids(levels, tuple(found))
        size = how.regions * bytes_of_region + 2 * LINE * how.count
        if min(found) ** levels > units or size > MOST_BYTES:
            break
        made.append(how)
    return made


@attrs.frozen
class Spread:
    """What calls of functions take that call each other, with forks whose calls run side by side.

    Args:
        how: which forks do.
        units: of the launch.
        each: seconds of a call on so many of them, without those that it makes; whether these run side by side.
        meeting: seconds in which units come back to a larger sub-grid.
    """

    how: Subgrids
    units: int
    each: Callable[[int, bool], float]
    meeting: float
    _known: dict[tuple[float, int], float] = attrs.field(factory=dict, init=False)

    def seconds(self, calls: float, level: int = 0) -> float:
        """Predicted seconds of so many calls, one of which makes all the others.

        When all calls of a fork but the largest are over, this one gets their units.

        Args:
            level: of the sub-grid.
        """
        key = (round(calls, 2), level)
        if key not in self._known:
            self._known[key] = self._seconds(calls, level)
        return self._known[key]

    def _seconds(self, calls: float, level: int) -> float:
        width = min(self.how.widths, default=1)
        on = max(self.units // width**level, 1)
        if calls <= 1 or level == self.how.levels or on < width:
            return calls * self.each(on, False)
        share = sum(1 / i for i in range(1, width + 1)) / width
        largest, others = (calls - 1) * share, (calls - 1) * (1 - share) / (width - 1)
        first, alone = self.seconds(others, level + 1), self.seconds(largest, level + 1)
        left = max(1 - first / alone, 0.0) if alone else 0.0
        longer = min(alone, first + self.meeting + left * self.seconds(largest, level))
        return self.each(on, True) + max(first, longer)


def without_haste(calls: Iterable[HostCall]) -> Fork:
    """A fork of some calls."""
    return Fork(tuple(GridCall(x.procedure, x.args, x.results, x.reads) for x in calls))
