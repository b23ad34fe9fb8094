"""The tile-graph: kernels of a cover as nodes, the values that pass between them as edges (OSDI'23, section 3).

Nodes are the operator-tiles of the paper, already joined with what is element-wise. Welding nodes connects the edges
between them at the level of shared memory, which a recipe may keep even nearer.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from graphlib import CycleError, TopologicalSorter

import attrs

from tilewright.ir.group import ControlItem, Cover, Group, Level
from tilewright.ir.ops import Value
from tilewright.views.layout import part_offset

Item = Group | ControlItem


@attrs.frozen
class Edge:
    """Values that pass from node `source` to node `target`."""

    source: int
    target: int
    values: tuple[Value, ...]


class TileGraph:
    """The items of a cover, in execution order, and what passes between them.

    Attributes:
        items: nodes by number. A control-flow operator is a node that is never welded.
        edges: sorted by target, then source. None comes from a part of an input, which is no kernel.
    """

    def __init__(self, cover: Cover, inputs: Container[str] = ()) -> None:
        self.items: tuple[Item, ...] = cover.items
        self.results = frozenset(cover.region.results)
        self._maker = {v: i for i, item in enumerate(self.items) if not _is_part(item, inputs) for v in item.outputs}
        self._readers: dict[Value, set[int]] = {}
        for i, item in enumerate(self.items):
            for value in item.inputs:
                self._readers.setdefault(value, set()).add(i)
        passing: dict[tuple[int, int], list[Value]] = {}
        for i, item in enumerate(self.items):
            for value in item.inputs:
                if value in self._maker:
                    passing.setdefault((i, self._maker[value]), []).append(value)
        self.edges = tuple(Edge(s, t, tuple(values)) for (t, s), values in sorted(passing.items()))
        self._next: list[list[int]] = [[] for _ in self.items]
        self._last: list[list[int]] = [[] for _ in self.items]
        # Of each node, as bits, the nodes that come after it along edges, and those that come before it.
        self._after, self._before = [0] * len(self.items), [0] * len(self.items)
        for edge in self.edges:
            self._next[edge.source].append(edge.target)
            self._last[edge.target].append(edge.source)
            self._before[edge.target] |= 1 << edge.source | self._before[edge.source]
        for edge in sorted(self.edges, key=lambda e: -e.source):
            self._after[edge.source] |= 1 << edge.target | self._after[edge.target]

    def readers(self, nodes: Iterable[int]) -> list[int]:
        """Nodes outside that read what `nodes` make, in order."""
        inside = set(nodes)
        return sorted({x for node in inside for x in self._next[node]} - inside)

    def makers(self, nodes: Iterable[int]) -> list[int]:
        """Nodes outside that make what `nodes` read, the last one first."""
        inside = set(nodes)
        return sorted({x for node in inside for x in self._last[node]} - inside, reverse=True)

    def neighbours(self, nodes: Iterable[int]) -> list[int]:
        """Nodes outside that an edge connects with one of `nodes`, readers first."""
        return list(dict.fromkeys([*self.readers(nodes), *self.makers(nodes)]))

    def convex(self, nodes: Iterable[int]) -> bool:
        """Whether no path between two of the nodes leaves them."""
        inside = after = before = 0
        for node in nodes:
            inside |= 1 << node
            after |= self._after[node]
            before |= self._before[node]
        return not after & before & ~inside

    def crossing(self, nodes: Sequence[int]) -> tuple[Value, ...]:
        """Values that pass between the nodes."""
        inside = set(nodes)
        made = {v for node in inside for v in self.items[node].outputs}
        return tuple(dict.fromkeys(v for i in sorted(inside) for v in self.items[i].inputs if v in made))

    def leaving(self, nodes: Sequence[int]) -> tuple[Value, ...]:
        """Values that the nodes make and others read."""
        inside = set(nodes)
        made = (v for i in sorted(inside) for v in self.items[i].outputs)
        return tuple(v for v in made if v in self.results or self._readers.get(v, set()) - inside)

    def welded(self, nodes: Sequence[int]) -> Group:
        """The nodes as one group, the values between them at the level of shared memory."""
        groups = [g for i in sorted(nodes) if isinstance(g := self.items[i], Group)]
        levels: dict[str, Level] = {name: level for g in groups for name, level in g.levels}
        levels |= {v.name: "shared" for v in self.crossing(nodes)}
        trail = tuple(dict.fromkeys(x for g in groups for x in g.trail))
        ops = tuple(op for g in groups for op in g.ops)
        return Group(groups[0].name, ops, self.leaving(nodes), tuple(levels.items()), trail)

    def acyclic(self, welds: Sequence[Sequence[int]]) -> bool:
        """Whether the items still have an order once each set of nodes is one."""
        home = {node: k for k, nodes in enumerate(welds) for node in nodes}
        key = [home.get(i, len(welds) + i) for i in range(len(self.items))]
        needs: dict[int, set[int]] = {k: set() for k in key}
        for edge in self.edges:
            if key[edge.source] != key[edge.target]:
                needs[key[edge.target]].add(key[edge.source])
        try:
            TopologicalSorter(needs).prepare()
        except CycleError:
            return False
        return True


def _is_part(item: Item, inputs: Container[str]) -> bool:
    return isinstance(item, Group) and len(item.ops) == 1 and part_offset(item.ops[0], inputs) is not None
