"""Where boxes stand and how edges run: everything stays legible, whatever the graph."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import example, given
from hypothesis import strategies as st

from tilewright.pictures.layout import Grid, Link, grid_of
from tilewright.pictures.routes import Drawing, routed

WIDTH = 100


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[int], list[Link]]:
    """Heights of boxes, and links of which some go back."""
    heights = draw(st.lists(st.integers(20, 90), min_size=1, max_size=14))
    ends = st.integers(0, len(heights) - 1)
    pairs = draw(st.lists(st.tuples(ends, ends, st.booleans()), max_size=30, unique=True))
    return heights, [Link(a, b, back) for a, b, back in pairs if back or a < b]


def drawn(heights: list[int], links: list[Link]) -> tuple[Grid, Drawing]:
    grid = grid_of(len(heights), links)
    return grid, routed(grid, links, WIDTH, heights)


def segments(drawing: Drawing) -> Iterator[tuple[int, int, int, int]]:
    """Left, upper, right and lower end of every straight piece of every route."""
    for route in drawing.routes:
        for (a, b), (c, d) in itertools.pairwise(route.points):
            assert a == c or b == d
            yield min(a, c), min(b, d), max(a, c), max(b, d)


@given(graphs())
def test_boxes_stand_apart_and_no_edge_crosses_one(graph: tuple[list[int], list[Link]]) -> None:
    heights, links = graph
    _, drawing = drawn(heights, links)
    boxes = [(x, y, x + WIDTH, y + h) for (x, y), h in zip(drawing.corners, heights, strict=True)]
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
    for left, top, right, bottom in segments(drawing):
        assert 0 <= left <= right <= drawing.width
        assert 0 <= top <= bottom <= drawing.height
        for x, y, x_end, y_end in boxes:
            assert right <= x or x_end <= left or bottom <= y or y_end <= top


@given(graphs())
def test_edges_lead_from_lower_to_upper_ends(graph: tuple[list[int], list[Link]]) -> None:
    heights, links = graph
    grid, drawing = drawn(heights, links)
    assert len(drawing.routes) == len(links)
    for link, route in zip(links, drawing.routes, strict=True):
        (x, y), (end_x, end_y) = drawing.corners[link.source], drawing.corners[link.target]
        assert route.points[0][1] == y + heights[link.source]
        assert x < route.points[0][0] < x + WIDTH
        assert route.points[-1][1] == end_y
        assert end_x < route.points[-1][0] < end_x + WIDTH
        if not link.back:
            assert grid.layers[link.source] < grid.layers[link.target]


@given(graphs())
@example(([20] * 4, [Link(0, 2), Link(0, 3), Link(1, 0, back=True)]))
def test_what_runs_side_by_side_is_told_apart(graph: tuple[list[int], list[Link]]) -> None:
    """Pieces of edges from different boxes to different boxes never lie on each other."""
    heights, links = graph
    _, drawing = drawn(heights, links)
    pieces = []
    for link, route in zip(links, drawing.routes, strict=True):
        for (a, b), (c, d) in itertools.pairwise(route.points):
            if (a, b) != (c, d):
                pieces.append((link, min(a, c), min(b, d), max(a, c), max(b, d)))
    for (one, *a), (other, *b) in itertools.combinations(pieces, 2):
        if one.source == other.source or one.target == other.target:
            continue
        horizontal = a[1] == a[3] == b[1] == b[3] and max(a[0], b[0]) < min(a[2], b[2])
        vertical = a[0] == a[2] == b[0] == b[2] and max(a[1], b[1]) < min(a[3], b[3])
        assert not horizontal
        assert not vertical


def test_a_chain_is_one_column_and_a_branch_has_another() -> None:
    chain = [Link(i, i + 1) for i in range(250)]
    grid, drawing = drawn([30] * 251, chain)
    assert set(grid.columns) == {0}
    assert grid.layers == tuple(range(251))
    assert grid.straight == frozenset(chain)
    assert drawing.width < 2 * WIDTH

    residual = [*chain[:6], Link(0, 3), Link(3, 6)]
    assert set(drawn([30] * 7, residual)[0].columns) == {0}

    branched = grid_of(6, [Link(0, 1), Link(1, 2), Link(2, 5), Link(0, 3), Link(3, 4), Link(4, 5)])
    assert branched.columns == (0, 0, 0, 1, 1, 0)
    assert branched.layers == (0, 1, 2, 1, 2, 3)


def test_a_box_that_reads_no_other_stands_near_its_reader() -> None:
    grid = grid_of(5, [Link(0, 1), Link(1, 2), Link(2, 3), Link(4, 3)])
    assert grid.layers == (0, 1, 2, 3, 2)
