"""Where the boxes of a graph stand: layers from top to bottom, and a column for each chain."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import attrs


@attrs.frozen
class Link:
    """An edge by the numbers of its ends; one that goes `back` does not put its target below its source."""

    source: int
    target: int
    back: bool = False


@attrs.frozen
class Grid:
    """Layer and column of each box, and the links that run straight down a chain."""

    layers: tuple[int, ...]
    columns: tuple[int, ...]
    straight: frozenset[Link]


def grid_of(count: int, links: Sequence[Link]) -> Grid:
    """A grid for so many boxes. Nothing else stands in a chain's column between its first and its last box."""
    down = [x for x in links if not x.back and x.source != x.target]
    layers = _layers(count, down)
    follows = _chained(count, down, layers)
    columns = _columns(count, down, layers, follows)
    return Grid(tuple(layers), tuple(columns), frozenset(x for x in down if follows.get(x.target) == x.source))


def _layers(count: int, links: Sequence[Link]) -> list[int]:
    """The longest way from a box that reads no other; such a box stands as near to its first reader as it can."""
    readers: list[list[int]] = [[] for _ in range(count)]
    open_links = [0] * count
    for link in links:
        readers[link.source].append(link.target)
        open_links[link.target] += 1
    first = [i for i in range(count) if not open_links[i]]
    layers = [0] * count
    ready = list(first)
    while ready:
        box = heapq.heappop(ready)
        for reader in readers[box]:
            layers[reader] = max(layers[reader], layers[box] + 1)
            open_links[reader] -= 1
            if not open_links[reader]:
                heapq.heappush(ready, reader)
    for box in first:
        if readers[box]:
            layers[box] = min(layers[x] for x in readers[box]) - 1
    return layers


def _chained(count: int, links: Sequence[Link], layers: Sequence[int]) -> dict[int, int]:
    """For each box that goes on a chain the one before it: the nearest that it reads and that no other box follows."""
    sources: list[list[int]] = [[] for _ in range(count)]
    for link in links:
        sources[link.target].append(link.source)
    follows: dict[int, int] = {}
    taken: set[int] = set()
    for box in sorted(range(count), key=lambda i: (layers[i], i)):
        free = [x for x in sources[box] if x not in taken]
        if free:
            follows[box] = max(free, key=lambda x: (layers[x], -x))
            taken.add(follows[box])
    return follows


def _columns(count: int, links: Sequence[Link], layers: Sequence[int], follows: dict[int, int]) -> list[int]:
    """For each chain the free column that is nearest to what its first box reads; a new one where none is free."""
    after = {source: target for target, source in follows.items()}
    parent: dict[int, int] = {}
    for link in links:
        parent.setdefault(link.target, link.source)
    used: list[list[tuple[int, int]]] = []
    columns = [0] * count
    for head in sorted((i for i in range(count) if i not in follows), key=lambda i: (layers[i], i)):
        chain = [head]
        while chain[-1] in after:
            chain.append(after[chain[-1]])
        low, high = layers[head], layers[chain[-1]]
        free = [c for c, spans in enumerate(used) if all(high < a or b < low for a, b in spans)]
        near = columns[parent[head]] if head in parent else 0
        column = min(free, key=lambda c: (abs(c - near), c), default=len(used))
        if column == len(used):
            used.append([])
        used[column].append((low, high))
        for box in chain:
            columns[box] = column
    return columns
