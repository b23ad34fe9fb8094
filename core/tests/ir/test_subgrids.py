"""How units are divided among calls that run side by side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tilewright.ir.subgrids import Subgrid, Subgrids, whole


def every(grid: Subgrid, how: Subgrids) -> Iterator[Subgrid]:
    yield grid
    for width in how.widths:
        for part in how.divided(grid, width):
            yield from every(part, how)


@pytest.mark.parametrize(
    ("how", "units"),
    [(Subgrids(1, (2,)), 2), (Subgrids(5, (2,)), 128), (Subgrids(5, (2,)), 7), (Subgrids(3, (2, 3)), 132)],
)
def test_each_sub_grid_has_a_number_and_a_region(how: Subgrids, units: int) -> None:
    found = list(every(whole(units), how))
    numbers = [x.number for x in found]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) < how.count
    assert all(0 <= x.region < how.regions and x.level <= how.levels and x.units for x in found)


@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("units", [2, 3, 7, 132])
def test_parts_share_nothing(width: int, units: int) -> None:
    how = Subgrids(3, (2, 3))
    for grid in every(whole(units), how):
        parts = how.divided(grid, width)
        assert len(parts) == (width if grid.level < 3 and grid.units >= width else 0)
        taken = [unit for x in parts for unit in range(x.first, x.first + x.units)]
        assert not parts or taken == list(range(grid.first, grid.first + grid.units))
        assert not parts or max(x.units for x in parts) - min(x.units for x in parts) <= 1
        regions = [{x.region for x in every(part, how)} for part in parts]
        assert sum(map(len, regions)) == len(set().union(*regions))


def test_forks_of_other_widths_are_not_divided() -> None:
    assert not Subgrids(2, (2, 4)).divided(whole(8), 3)
    assert not Subgrids().divided(whole(8), 2)
    assert (Subgrids().count, Subgrids().regions) == (1, 1)
    assert (Subgrids(2, (2, 3)).count, Subgrids(2, (2, 3)).regions) == (31, 9)
