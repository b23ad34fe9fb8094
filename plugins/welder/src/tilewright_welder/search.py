"""GraphConnecting: which sets of kernels to weld, by the cost model, within a budget of processor seconds.

From every node a set grows along the edges as long as a recipe takes it: by one neighbour, rather one with which it
saves more, or where none is taken alone, by a maker and a reader together, as some recipes want what stands on both
sides. Every set on the way is priced by the best choice that the proposer has for it (SubGraphTiling), against the sum
of what its members cost apart; where a value is read in equal pieces, the set is priced with the value in pieces too
(`tilewright.rewrites.pieces`). Of all of them disjoint ones are chosen that save the most together. Equal sets are
priced once, whatever layer they stand in.

All of that is by estimate. Where the proposer measures, what was chosen is measured before it is kept.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator, Sequence

import attrs

from tilewright.errors import UnsupportedError
from tilewright.ir.group import Group
from tilewright.ir.ops import Value
from tilewright.planning.session import Session
from tilewright.rewrites.pieces import by_pieces
from tilewright.views.kernel import is_elementwise
from tilewright_welder.options import WelderOptions
from tilewright_welder.tile_graph import TileGraph

_HOPELESS = 1.5
"""A set that costs so many times what its kernels cost apart takes in no more."""
_WORSE = 1
"""Steps after each other with which a set may save less than it did before."""
_PAIRS = 9
"""Pairs of a maker and a reader that a set tries to take in at most."""


@attrs.frozen
class Candidate:
    """A set of nodes that can be one kernel.

    Args:
        nodes: in execution order.
        formulation: number of the way to write it as one group (`formulations`).
        apart, together: seconds of the separate kernels, and of the one, as the proposer gives them.
    """

    nodes: tuple[int, ...]
    formulation: int
    apart: float
    together: float

    @property
    def gain(self) -> float:
        """Seconds saved."""
        return self.apart - self.together


@attrs.frozen
class Weld(Candidate):
    """A candidate that was chosen.

    Args:
        group: the nodes as one.
    """

    group: Group


@attrs.define
class Found:
    """What a search came to.

    Args:
        welds: the chosen ones.
        refused: why an edge (source, target) is not within a weld.
        complete: whether the budget was enough.
    """

    welds: tuple[Weld, ...]
    refused: dict[tuple[int, int], str]
    complete: bool


def search(graph: TileGraph, session: Session, options: WelderOptions) -> Found:
    """The welds of a cover."""
    return _Search(graph, session, options).run()


class _Search:
    def __init__(self, graph: TileGraph, session: Session, options: WelderOptions) -> None:
        self.graph, self.session, self.options = graph, session, options
        self.deadline = time.thread_time() + options.budget
        self.costs: dict[int, float] = {}
        self.tried: dict[tuple[int, ...], Candidate | str] = {}

    def run(self) -> Found:
        complete = True
        for start in range(len(self.graph.items)):
            if time.thread_time() > self.deadline:
                complete = False
                break
            self._grow(start)
        candidates = [x for x in self.tried.values() if isinstance(x, Candidate) and self._pays(x)]
        welds = tuple(x for x in map(self._confirmed, choose(candidates, self.graph)) if self._pays(x))
        return Found(welds, self._refusals(welds), complete)

    def _pays(self, candidate: Candidate) -> bool:
        return candidate.gain > self.options.gain * candidate.apart

    def _confirmed(self, found: Candidate) -> Weld:
        """The candidate with the costs that its kernels are planned with, which the proposer may have measured."""
        group = formulations(self.graph.welded(found.nodes))[found.formulation]
        members = [x for i in found.nodes if isinstance(x := self.graph.items[i], Group)]
        apart = sum(self.session.propose(x)[0].cost for x in members)
        weld = Weld(found.nodes, found.formulation, apart, self.session.propose(group)[0].cost, group)
        self.tried[weld.nodes] = weld
        return weld

    def _grow(self, start: int) -> None:
        """Sets that hold `start`: it takes in neighbours as long as a recipe takes the set."""
        if not isinstance(self.graph.items[start], Group):
            return
        nodes: tuple[int, ...] = (start,)
        best, worse = 0.0, 0
        while len(nodes) < self.options.most and time.thread_time() <= self.deadline:
            found = self._wider(nodes, best)
            worse = 0 if found is not None and found.gain > best else worse + 1
            if found is None or worse > _WORSE:
                return
            nodes, best = found.nodes, max(best, found.gain)

    def _wider(self, nodes: tuple[int, ...], gain: float) -> Candidate | None:
        """The set with a neighbour: the first with which it saves more; if there is none, the first that is not
        hopeless, or with a maker and a reader together."""
        fallback: Candidate | None = None
        for others in self._steps(nodes):
            if fallback is not None and len(others) > 1:
                break
            found = self._try(tuple(sorted((*nodes, *others))))
            if isinstance(found, str) or found.together >= _HOPELESS * found.apart:
                continue
            if found.gain > gain:
                return found
            fallback = fallback or found
        return fallback

    def _steps(self, nodes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """What a set may take in next: a neighbour, readers first, or one on either side."""
        yield from ((x,) for x in self.graph.neighbours(nodes))
        if len(nodes) + 2 <= self.options.most:
            pairs = itertools.product(self.graph.makers(nodes), self.graph.readers(nodes))
            yield from itertools.islice((x for x in pairs if x[0] != x[1]), _PAIRS)

    def _try(self, nodes: tuple[int, ...]) -> Candidate | str:
        """The nodes as a candidate, or why they are none."""
        found = self.tried.get(nodes)
        if found is None:
            found = self.tried[nodes] = self._price(nodes)
        return found

    def _price(self, nodes: tuple[int, ...]) -> Candidate | str:
        if not all(isinstance(self.graph.items[i], Group) for i in nodes):
            return "control flow stands between"
        if not self.graph.convex(nodes):
            return "another kernel needs the one's results and makes the other's operands"
        found = self.session.analysis("welder.set", self._signature(nodes), lambda: self._cheapest(nodes))
        if isinstance(found, str):
            return found
        return Candidate(nodes, found[0], sum(map(self._cost, nodes)), found[1])

    def _signature(self, nodes: tuple[int, ...]) -> tuple[object, ...]:
        """What sets that can be written as equal groups have in common: their members' structure, what passes between
        them, and what leaves them."""
        numbers: dict[Value, int] = {}
        members: list[object] = []
        for node in nodes:
            group = self.graph.items[node]
            assert isinstance(group, Group)
            known = self.session.canonical(group)
            values = (*known.inputs, *known.outputs)
            members.append((known.key, tuple(numbers.setdefault(v, len(numbers)) for v in values)))
        return (*members, tuple(numbers[v] for v in self.graph.leaving(nodes)))

    def _cheapest(self, nodes: tuple[int, ...]) -> tuple[int, float] | str:
        """Which formulation of a set is the cheapest, and its predicted seconds, or why it is no kernel."""
        best: tuple[int, float] | str = "no recipe takes both"
        for number, group in enumerate(formulations(self.graph.welded(nodes))):
            key = self.session.canonical(group).key
            together = self.session.analysis("welder.together", key, functools.partial(self._together, group))
            if isinstance(together, str):
                best = together if isinstance(best, str) else best
            elif isinstance(best, str) or together < best[1]:
                best = number, together
        return best

    def _together(self, group: Group) -> float | str:
        """Predicted seconds of a weld by its best choice, or why it is none."""
        if not self.session.matches(group):
            return "no recipe takes both"
        try:
            return self.session.propose(group, self.session.estimate())[0].cost
        except UnsupportedError:
            return f"no choice of {', '.join(m.recipe for m in self.session.matches(group))} fits the device"

    def _cost(self, node: int) -> float:
        """Predicted seconds of a node as a kernel of its own."""
        if node not in self.costs:
            group = self.graph.items[node]
            assert isinstance(group, Group)
            self.costs[node] = self.session.propose(group, self.session.estimate())[0].cost
        return self.costs[node]

    def _refusals(self, chosen: Sequence[Weld]) -> dict[tuple[int, int], str]:
        """Of every edge between kernels, why it is not within one."""
        home = {node: weld for weld in chosen for node in weld.nodes}
        refused: dict[tuple[int, int], str] = {}
        for edge in self.graph.edges:
            source, target = home.get(edge.source), home.get(edge.target)
            if source is not None and source is target:
                continue
            pair = (edge.source, edge.target)
            around = tuple(sorted({*(source.nodes if source else pair[:1]), *(target.nodes if target else pair[1:])}))
            tried = self.tried.get(around, self.tried.get(pair, "it was not tried within the budget or the size"))
            refused[pair] = tried if isinstance(tried, str) else _loses(tried)
        return refused


def formulations(whole: Group) -> tuple[Group, ...]:
    """A welded group, and where values are read in pieces, the same with these values made in pieces: with the edges at
    the level that they had, and with the last of them nearer."""
    cut = by_pieces(whole)
    return (whole,) if cut is None else (whole, cut, _nearer(cut))


def _nearer(group: Group) -> Group:
    """The group with the last operator's results that only element-wise operators read at the level of registers, so
    that these follow it point by point."""
    last: tuple[str, ...] = ()
    for op in group.ops:
        made = {v.name for v in op.outputs if group.level(v.name) == "shared"}
        readers = [x for x in group.ops if made & {v.name for v in x.inputs if v is not None}]
        if made and all(map(is_elementwise, readers)):
            last = tuple(made)
    levels = tuple((name, "register" if name in last else level) for name, level in group.levels)
    return attrs.evolve(group, levels=levels)


def _loses(found: Candidate) -> str:
    return f"together {found.together * 1e6:.1f} µs, apart {found.apart * 1e6:.1f} µs"


_EXACT = 18
"""Welds that conflict with each other, directly or through others, up to which every combination is looked at."""


def choose(welds: Sequence[Candidate], graph: TileGraph) -> tuple[Candidate, ...]:
    """Disjoint welds that save the most together and leave the cover an order."""
    kept: list[Candidate] = []
    for cluster in _clusters(welds):
        kept += _best(cluster) if len(cluster) <= _EXACT else _greedy(cluster)
    kept.sort(key=lambda x: (-x.gain, x.nodes))
    if graph.acyclic([x.nodes for x in kept]):
        return tuple(sorted(kept, key=lambda x: x.nodes))
    chosen: list[Candidate] = []
    for weld in kept:
        if graph.acyclic([x.nodes for x in (*chosen, weld)]):
            chosen.append(weld)
    return tuple(sorted(chosen, key=lambda x: x.nodes))


def _clusters(welds: Sequence[Candidate]) -> list[list[Candidate]]:
    """Welds that share nodes, directly or through others, together."""
    clusters: list[tuple[set[int], list[Candidate]]] = []
    for weld in welds:
        touching = [c for c in clusters if c[0] & set(weld.nodes)]
        nodes = set(weld.nodes).union(*(c[0] for c in touching))
        members = [*(w for c in touching for w in c[1]), weld]
        clusters = [c for c in clusters if c not in touching] + [(nodes, members)]
    return [members for _, members in clusters]


def _best(welds: Sequence[Candidate]) -> list[Candidate]:
    """The disjoint ones that save the most: branch and bound."""
    ordered = sorted(welds, key=lambda x: -x.gain)
    best: tuple[float, list[Candidate]] = (0.0, [])

    def visit(position: int, used: set[int], gain: float, taken: list[Candidate]) -> None:
        nonlocal best
        if gain > best[0]:
            best = (gain, list(taken))
        if position == len(ordered) or gain + sum(x.gain for x in ordered[position:]) <= best[0]:
            return
        weld = ordered[position]
        if not used & set(weld.nodes):
            visit(position + 1, used | set(weld.nodes), gain + weld.gain, [*taken, weld])
        visit(position + 1, used, gain, taken)

    visit(0, set(), 0.0, [])
    return best[1]


def _greedy(welds: Sequence[Candidate]) -> list[Candidate]:
    """Disjoint ones by what they save, the most first."""
    used: set[int] = set()
    taken = []
    for weld in sorted(welds, key=lambda x: (-x.gain, x.nodes)):
        if not used & set(weld.nodes):
            used |= set(weld.nodes)
            taken.append(weld)
    return taken
