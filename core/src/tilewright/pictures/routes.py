"""How edges run between boxes on a grid: along tracks between layers and lanes between columns, never across a box."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import attrs

from tilewright.pictures.layout import Grid, Link

K = TypeVar("K", bound=Hashable)
_TRACK, _LANE, _PORT, _LABEL = 10, 9, 12, 10
"""Distances: of tracks, lanes, ends of edges at a box, lines of labels."""
_GAP, _GUTTER = 30, 24
"""Least distances of layers and columns."""


@attrs.frozen
class Route:
    """The points of an edge, and where its label stands: at the left of that point, or at the right."""

    points: tuple[tuple[int, int], ...]
    label: tuple[int, int]
    left: bool


@attrs.frozen
class Drawing:
    """Left upper corner of each box, a route for each link, and the size of it all."""

    corners: tuple[tuple[int, int], ...]
    routes: tuple[Route, ...]
    width: int
    height: int


def routed(grid: Grid, links: Sequence[Link], width: int, heights: Sequence[int]) -> Drawing:
    """Puts boxes of one width on a grid and finds a way for each link.

    What leaves a box for one gutter shares a way until it branches off to its targets.
    """
    return _Router(grid, links, width, heights).drawing()


class _Router:
    def __init__(self, grid: Grid, links: Sequence[Link], width: int, heights: Sequence[int]) -> None:
        self.grid, self.links, self.width, self.heights = grid, links, width, heights
        layers, columns = grid.layers, grid.columns
        self.depth, self.across = max(layers, default=-1) + 1, max(columns, default=-1) + 1
        self.bent = [x for x in links if x not in grid.straight]
        self.long = [x for x in self.bent if layers[x.target] != layers[x.source] + 1]
        self.lanes = self._lanes()
        self.x = self._columns()
        self.arrivals = self._arrivals()
        self.tracks = self._tracks()
        self.y, self.gaps = self._rows()

    def _gutter(self, link: Link) -> int:
        """The gutter at the right of which column a link takes."""
        return min(self.grid.columns[link.source], self.grid.columns[link.target])

    def _lanes(self) -> dict[tuple[int, int], int]:
        """The lane of what leaves a box for a gutter."""
        found: dict[tuple[int, int], int] = {}
        for gutter in range(self.across):
            spans: dict[int, tuple[int, int]] = {}
            for link in self.long:
                if self._gutter(link) == gutter:
                    ends = (self.grid.layers[link.source] + 1, self.grid.layers[link.target])
                    ends_so_far = (*ends, *spans.get(link.source, ()))
                    spans[link.source] = (min(ends_so_far), max(ends_so_far))
            found |= {(source, gutter): lane for source, lane in apart(spans, 0).items()}
        return found

    def _columns(self) -> list[int]:
        """The left end of each column, and of one more."""
        x = [0]
        for gutter in range(self.across):
            lanes = 1 + max((lane for (_, g), lane in self.lanes.items() if g == gutter), default=0)
            x.append(x[-1] + self.width + _GUTTER + _LANE * lanes)
        return x

    def _middle(self, box: int) -> int:
        return self.x[self.grid.columns[box]] + self.width // 2

    def _leaves_left(self, link: Link) -> bool:
        return self.grid.columns[link.target] < self.grid.columns[link.source]

    def _comes_from_left(self, link: Link) -> bool:
        return self.grid.columns[link.source] < self.grid.columns[link.target]

    def _departure(self, link: Link) -> int:
        """Where at a box's lower end a bent link begins."""
        return self._middle(link.source) + (-1 if self._leaves_left(link) else 1) * _PORT

    def _arrivals(self) -> dict[Link, tuple[int, int]]:
        """Where at a box's upper end a bent link ends, and which one of its side it is."""
        sides: dict[tuple[int, bool], list[Link]] = {}
        for link in self.bent:
            sides.setdefault((link.target, self._comes_from_left(link)), []).append(link)
        found: dict[Link, tuple[int, int]] = {}
        room = self.width // 2 - 3 * _PORT
        for (target, left), own in sides.items():
            for i, link in enumerate(own):
                offset = 2 * _PORT + i * min(_PORT, room // len(own))
                found[link] = (self._middle(target) + (-offset if left else offset), i)
        return found

    def _lane_x(self, link: Link) -> int:
        gutter = self._gutter(link)
        return self.x[gutter] + self.width + _GUTTER // 2 + _LANE * self.lanes[link.source, gutter]

    def _tracks(self) -> dict[tuple[int, Hashable], int]:
        """The track in a gap, by gap and what runs there."""
        spans: dict[int, dict[Hashable, tuple[int, int]]] = {}
        for link in self.bent:
            gap, last = self.grid.layers[link.source] + 1, self.grid.layers[link.target]
            start, end = self._departure(link), self.arrivals[link][0]
            if link in self.long:
                lane = self._lane_x(link)
                shared = (link.source, self._gutter(link))
                spans.setdefault(gap, {})[shared] = (min(start, lane), max(start, lane))
                start = lane
            spans.setdefault(last, {})[link] = (min(start, end), max(start, end))
        return {(gap, key): track for gap, own in spans.items() for key, track in apart(own, 4).items()}

    def _rows(self) -> tuple[list[int], list[int]]:
        """The upper end of each layer, and of the gap above each and below the last."""
        labels = [0] * (self.depth + 1)
        for link, (_, number) in self.arrivals.items():
            layer = self.grid.layers[link.target]
            labels[layer] = max(labels[layer], number + 1)
        y, gaps, at = [], [], 0
        for layer in range(self.depth + 1):
            gaps.append(at)
            tracks = 1 + max((t for (gap, _), t in self.tracks.items() if gap == layer), default=-1)
            at += _GAP + tracks * _TRACK + labels[layer] * _LABEL
            y.append(at)
            at += max((h for h, own in zip(self.heights, self.grid.layers, strict=True) if own == layer), default=0)
        return y, gaps

    def _track_y(self, gap: int, key: Hashable) -> int:
        return self.gaps[gap] + _GAP // 2 + _TRACK * self.tracks[gap, key]

    def _route(self, link: Link) -> Route:
        source, target = link.source, link.target
        bottom = self.y[self.grid.layers[source]] + self.heights[source]
        top = self.y[self.grid.layers[target]]
        if link in self.grid.straight:
            x = self._middle(source)
            return Route(((x, bottom), (x, top)), (x - 5, bottom + 12), True)
        start, (end, number) = self._departure(link), self.arrivals[link]
        last = self._track_y(self.grid.layers[target], link)
        points = [(start, bottom)]
        if link in self.long:
            first = self._track_y(self.grid.layers[source] + 1, (source, self._gutter(link)))
            lane = self._lane_x(link)
            points += [(start, first), (lane, first), (lane, last)]
        else:
            points.append((start, last))
        points += [(end, last), (end, top)]
        left = self._comes_from_left(link)
        return Route(tuple(points), (end + (-4 if left else 4), top - 7 - _LABEL * number), left)

    def drawing(self) -> Drawing:
        corners = tuple((self.x[c], self.y[n]) for n, c in zip(self.grid.layers, self.grid.columns, strict=True))
        return Drawing(corners, tuple(map(self._route, self.links)), self.x[-1], self.y[-1])


def apart(spans: Mapping[K, tuple[int, int]], space: int) -> dict[K, int]:
    """For each span a number, such that spans of one number are further apart than `space`."""
    ends: list[int] = []
    found: dict[K, int] = {}
    order: Iterable[K] = sorted(spans, key=lambda k: spans[k])
    for key in order:
        low, high = spans[key]
        number = next((i for i, end in enumerate(ends) if end + space < low), len(ends))
        ends[number:] = [high, *ends[number + 1 :]]
        found[key] = number
    return found
