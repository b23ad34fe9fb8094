"""How the units of a launch are divided among calls that run side by side.

A fork of `w` calls divides the units of the sub-grid that comes to it into `w` parts, each but for one unit as large as
the others; each part is a sub-grid of which one unit leads the others. Sub-grids are numbered as in a heap. What calls
write stands in *regions* of buffers: those of calls at work at one time differ, and a call may be in the region of its
caller, for its frames are deeper. After Cocktailer's division of the grid among the parallel calls of a recursion
(Grinder, OSDI 2023).
"""

from __future__ import annotations

import attrs

MOST_CALLS = 64
"""Calls of a fork that run side by side, at most."""


@attrs.frozen
class Subgrids:
    """Which forks of a launch run their calls side by side.

    Args:
        levels: how many such forks may be inside each other.
        widths: of how many calls they are, in ascending order.
    """

    levels: int = 0
    widths: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """How many numbers sub-grids have, the whole grid included."""
        return sum(sum(self.widths) ** level for level in range(self.levels + 1))

    @property
    def regions(self) -> int:
        """How many regions there are."""
        return int(max(self.widths, default=1) ** self.levels)

    def before(self, width: int) -> int:
        """The place of the first call of a fork of so many calls among the sub-grids that one may be divided into."""
        return sum(x for x in self.widths if x < width)

    def divided(self, grid: Subgrid, width: int) -> tuple[Subgrid, ...]:
        """The sub-grids for the calls of a fork; none where they run one after another."""
        if grid.level >= self.levels or grid.units < width or width not in self.widths:
            return ()
        first = grid.number * sum(self.widths) + self.before(width) + 1
        span = max(self.widths) ** (self.levels - grid.level - 1)
        ends = [grid.units * i // width for i in range(width + 1)]
        return tuple(
            Subgrid(
                first + i, grid.level + 1, grid.first + ends[i], ends[i + 1] - ends[i], grid.region + i * span
            )
            for i in range(width)
        )


@attrs.frozen
class Subgrid:
    """The units `first` to `first + units` of a launch.

    Args:
        level: forks that it is inside of.
        region: where what is called on it stands.
    """

    number: int
    level: int
    first: int
    units: int
    region: int


def whole(units: int) -> Subgrid:
    """All units of a launch."""
    return Subgrid(0, 0, 0, units, 0)
