"""Building rTiles up, level by level, by their data-reuse score (OSDI'22, section 3.3 and figure 8).

The nearest level comes first: its tile grows until loading it takes less time than computing with it, and becomes the
unit of which the next level's tiles are made. The axis to grow is the one with the highest score

    S_i = (Q(T) - Q(T'_i)) / (F(T'_i) - F(T))

where Q is what the kernel moves with tiles T, F what a tile occupies, and T'_i the tile with axis i at its next aligned
size. Every tile on the way is a choice of its own, for it leaves more tasks than those that follow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tilewright.device import DeviceModel
from tilewright.recipes import Columns, Match, evaluate
from tilewright_roller.align import ladder
from tilewright_roller.rtile import footprint, source_of, traffic, transaction_of

State = tuple[int, ...]
"""A value for each parameter of the match, in its order."""

SLACK = 4.0
"""A level is compute-bound when computing takes this many times as long as loading: the two overlap only in part."""
_NEAR = 1.25
"""How much longer than at its best computing may take in a compute-bound tile: small ones leave units idle."""
_AHEAD = 4
"""Sizes of an axis that are tried for the next legal one."""
_SHELLS = (1, 2, 4, 8, 64)
_MAX_ROWS = 20_000


class Construction:
    """The rTiles of one kernel under one recipe.

    Args:
        match: the kernel as the recipe sees it.
        device: what tiles are aligned to.
        beam: how many tiles of a level grow side by side.

    Attributes:
        visited: every legal state met, in order, with the level at which it was made.
        evaluations: rows of parameters that were evaluated.
    """

    def __init__(self, match: Match, device: DeviceModel, beam: int = 4) -> None:
        self.match, self.device, self.beam = match, device, beam
        self.ladders = [ladder(match, p, device) for p in match.parameters]
        self.visited: dict[State, str] = {}
        self.evaluations = 0
        self._computing = self._least_compute()
        self._levels = [
            (level, [i for i, p in enumerate(match.parameters) if p.level == level and p.role in match.tiles[level]])
            for level in match.tiles
        ]

    def run(self) -> None:
        """Fills `visited`. It stays empty when no choice is legal."""
        bases: list[State] = [()]
        fixed: list[int] = []
        for level, axes in self._levels:
            if not axes:
                continue
            found = [x for base in bases for x in self._least(fixed, base, level)]
            if not found:
                self._least_of_all()
                return
            bases = self._grown(level, axes, list(dict.fromkeys(found))[: 2 * self.beam])
            fixed += axes
        if not fixed:
            found = self._least([], (), "")
            self._visit(found, "")
            if not found:
                self._least_of_all()

    def cuts(self, axis: int) -> bool:
        """Whether a parameter cuts a tile; others are stages, the split of a reduction, how threads lie."""
        return any(axis in axes for _, axes in self._levels)

    def columns(self, states: Sequence[State]) -> Columns:
        """The states as arrays by parameter."""
        rows = np.asarray(states, np.int64).reshape(len(states), len(self.match.parameters))
        self.evaluations += len(states)
        return {p.name: rows[:, i] for i, p in enumerate(self.match.parameters)}

    def legal(self, states: Sequence[State]) -> list[State]:
        """Those that meet the recipe's constraints."""
        if not states:
            return []
        good = self.match.allowed(self.columns(states))
        return [s for s, ok in zip(states, good, strict=True) if ok]

    def tasks(self, states: Sequence[State]) -> npt.NDArray[np.int64]:
        """How many tasks each state makes."""
        return evaluate(self.match.usage.tasks, self.columns(states), len(states))

    def next_size(self, state: State, axis: int, smaller: bool = False) -> tuple[int, ...]:
        """The sizes after (or before) that of an axis, nearest first."""
        steps = [x for x in self.ladders[axis] if (x < state[axis] if smaller else x > state[axis])]
        return tuple(steps[::-1] if smaller else steps)[:_AHEAD]

    def scores(self, level: str, before: Sequence[State], after: Sequence[State]) -> npt.NDArray[np.float64]:
        """The data-reuse score of each step. A step that takes no room gets infinity, or 0 if it saves nothing."""
        both = self.columns([*before, *after])
        moved = traffic(self.match, level, both, transaction_of(self.match, level, self.device))
        held = footprint(self.match, level, both)
        n = len(before)
        saved, taken = moved[:n] - moved[n:], held[n:] - held[:n]
        free = np.where(saved > 0, math.inf, 0.0)
        return np.where(taken > 0, saved / np.where(taken > 0, taken, 1), free)

    def compute_bound(self, level: str, states: Sequence[State]) -> npt.NDArray[np.bool_]:
        """Whether computing, near its best, takes `SLACK` times as long as filling the tiles of a level."""
        columns = self.columns(states)
        bandwidth = source_of(self.match, level, self.device).bandwidth
        moved = traffic(self.match, level, columns, transaction_of(self.match, level, self.device))
        best = self._computing
        return np.asarray((moved / bandwidth * SLACK <= best) & (self._compute(columns) <= _NEAR * best))

    def _compute(self, columns: Columns) -> npt.NDArray[np.float64]:
        """Seconds of the arithmetic, with what small tiles waste of it."""
        work = self.match.work
        rows = len(next(iter(columns.values()))) if columns else 1
        peak = self.device.peak.get(work.unit, self.device.peak["fma"])
        efficiency = np.maximum(evaluate(work.efficiency, columns, rows), 1) / 100
        return np.asarray(evaluate(work.flops, columns, rows) / (peak * efficiency))

    def _least_compute(self) -> float:
        """Seconds of the arithmetic at its best: with the smallest, the middle or the largest tiles."""
        lists = self.ladders
        ends = [tuple(x[0] for x in lists), tuple(x[len(x) // 2] for x in lists), tuple(x[-1] for x in lists)]
        return float(self._compute(self.columns(ends)).min())

    def _grown(self, level: str, axes: Sequence[int], bases: list[State]) -> list[State]:
        """Grows tiles of a level side by side; the states to go on from, largest first."""
        self._visit(bases, level)
        ended: list[State] = []
        paths = {base: [base] for base in bases[: self.beam]}
        while paths:
            fronts = list(paths)
            done = self.compute_bound(level, fronts)
            steps = self._steps([f for f, d in zip(fronts, done, strict=True) if not d], axes)
            grown: dict[State, list[State]] = {}
            for front, stop in zip(fronts, done, strict=True):
                options = [] if stop else steps.get(front, [])
                if not options:
                    ended += paths[front][::-1]
                    continue
                scores = self.scores(level, [front] * len(options), options)
                best = [options[i] for i in np.argsort(-scores, kind="stable")]
                # The runner-up gets a place of its own as long as there is room: the best first step may lead astray.
                for option in best[: 2 if len(paths) + len(grown) < self.beam else 1]:
                    grown.setdefault(option, [*paths[front], option])
            self._visit(grown, level)
            paths = dict(itertools.islice(grown.items(), self.beam))
        order = sorted(dict.fromkeys(ended), key=lambda s: -math.prod(s[i] for i in axes))
        return order[: 2 * self.beam]

    def _steps(self, fronts: Sequence[State], axes: Sequence[int]) -> dict[State, list[State]]:
        """For each front and each axis the next legal tile; tiles of farther levels grow along where they must."""
        tried: list[tuple[State, int, tuple[int, ...], State]] = []
        for front in fronts:
            for axis in axes:
                role = self.match.parameters[axis].role
                farther = [i for i in self._after(axes) if self.match.parameters[i].role == role]
                lists = [(front[i], *self.next_size(front, i)) for i in farther]
                for size in self.next_size(front, axis):
                    for sizes in itertools.product(*lists):
                        state = replaced(front, {axis: size, **dict(zip(farther, sizes, strict=True))})
                        tried.append((front, axis, (size, *sizes), state))
        legal = set(self.legal([t[3] for t in tried]))
        found: dict[tuple[State, int], tuple[tuple[int, ...], State]] = {}
        for front, axis, sizes, state in tried:
            if state in legal and ((front, axis) not in found or sizes < found[front, axis][0]):
                found[front, axis] = (sizes, state)
        steps: dict[State, list[State]] = {}
        for (front, _), (_, state) in found.items():
            steps.setdefault(front, []).append(state)
        return steps

    def _after(self, axes: Sequence[int]) -> list[int]:
        """Axes of the levels farther than that of `axes`."""
        position = next(n for n, (_, own) in enumerate(self._levels) if list(own) == list(axes))
        return [i for _, own in self._levels[position + 1 :] for i in own]

    def _least(self, fixed: Sequence[int], base: State, level: str) -> list[State]:
        """The smallest legal states with the axes in `fixed` as in `base`, those that move least first."""
        for width in _SHELLS:
            lists = [
                (base[i],) if i in fixed else steps[:width] for i, steps in enumerate(self.ladders)
            ]
            while math.prod(map(len, lists)) > _MAX_ROWS:
                longest = max(range(len(lists)), key=lambda i: len(lists[i]))
                lists[longest] = lists[longest][::2]
            legal = self.legal(list(itertools.product(*lists)))
            if legal:
                return self._minimal(legal, level)
            if all(len(x) <= width for x in self.ladders):
                break
        return []

    def _minimal(self, states: Sequence[State], level: str) -> list[State]:
        """The states that are not larger than another in every axis."""
        rows = np.asarray(states)
        if not rows.size:
            return list(states)
        order = np.argsort(np.log2(rows).sum(axis=1), kind="stable")
        kept: list[int] = []
        for i in order:
            if not any((rows[j] <= rows[i]).all() for j in kept):
                kept.append(int(i))
            if len(kept) >= 4 * self.beam:
                break
        found = [states[i] for i in kept]
        if level:
            moved = traffic(self.match, level, self.columns(found), transaction_of(self.match, level, self.device))
            found = [found[i] for i in np.argsort(moved, kind="stable")]
        return found[: self.beam]

    def _least_of_all(self) -> None:
        """Where no aligned state is legal: the recipe's own candidates, as they are."""
        self.ladders = [p.candidates for p in self.match.parameters]
        self._visit(self._least([], (), ""), "")

    def _visit(self, states: Iterable[State], level: str) -> None:
        for state in states:
            self.visited.setdefault(state, level)


def replaced(state: State, changes: Mapping[int, int]) -> State:
    """The state with other values for some parameters."""
    return tuple(changes.get(i, x) for i, x in enumerate(state))
