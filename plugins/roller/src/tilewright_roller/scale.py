"""Scale-out: how many tasks the units get (OSDI'22, section 3.4), and the parameters that cut no tile.

Tiles are replicated over the units. A kernel with fewer tasks than units gives up the axis with the least reuse, step
by step, until every unit has work; where the recipe can split the reduction or vary its stages, those are tried too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tilewright_roller.construct import Construction, State, replaced

_MOST_VARIANTS = 48
_ROUNDS = 16
_GROWN = 8
"""States that are grown further when few tasks are asked for."""
_MOST_LARGER = 2048


def shrunk(construction: Construction, state: State) -> list[State]:
    """Ever smaller tiles, until there are as many tasks as units or no axis can give way."""
    found: list[State] = []
    levels = [x for x in construction.match.tiles if any(p.level == x for p in construction.match.parameters)]
    units = construction.device.units
    while levels and construction.tasks([state])[0] < units:
        axes = [i for i, p in enumerate(construction.match.parameters) if p.level == levels[-1]]
        options = construction.legal(
            [replaced(state, {i: size}) for i in axes for size in construction.next_size(state, i, smaller=True)[:1]]
        )
        if options:
            counts = construction.tasks([state, *options])
            options = [s for s, n in zip(options, counts[1:], strict=True) if n > counts[0]]
        if not options:
            break
        # Going back from T' to T costs what growing from T to T' gained.
        lost = construction.scores(levels[-1], options, [state] * len(options))
        state = options[int(np.argmin(lost))]
        found.append(state)
    return found


def grown(construction: Construction, states: Sequence[State], most: int) -> list[State]:
    """Larger tiles than some that leave at most `most` tasks, those with the most tasks first; the parameters that cut
    no tile take any value, for a larger tile may need fewer threads for each of its points."""
    levels = [x for x in construction.match.tiles if any(p.level == x for p in construction.match.parameters)]
    found: dict[State, int] = {}
    for state in states[-_GROWN:] if levels else ():
        lists = [_larger(construction, state, i, levels[-1], most) for i in range(len(state))]
        while np.prod([len(x) for x in lists]) > _MOST_LARGER:
            longest = max(range(len(lists)), key=lambda i: len(lists[i]))
            lists[longest] = lists[longest][::2]
        legal = construction.legal([x for x in itertools.product(*lists) if x not in found])
        if legal:
            counts = construction.tasks(legal).tolist()
            found |= {x: n for x, n in zip(legal, counts, strict=True) if n <= most}
    return sorted(found, key=lambda x: -found[x])[:_MOST_VARIANTS]


def _larger(construction: Construction, state: State, axis: int, level: str, most: int) -> list[int]:
    """The sizes of an axis that are not smaller; beside the usual ones that which leaves `most` tasks by itself."""
    parameter = construction.match.parameters[axis]
    if parameter.level == level:
        extent = construction.match.extents.get(parameter.role, 0)
        exact = -(-extent // (most * parameter.align)) * parameter.align
        return sorted({x for x in (*construction.ladders[axis], exact) if x >= state[axis]})
    return [state[axis]] if construction.cuts(axis) else list(construction.ladders[axis])


def varied(construction: Construction, states: list[State]) -> list[State]:
    """The states with every value of the parameters that cut no tile."""
    free = [i for i, steps in enumerate(construction.ladders) if len(steps) > 1 and not construction.cuts(i)]
    lists = [list(construction.ladders[i]) for i in free]
    while np.prod([len(x) for x in lists]) > _MOST_VARIANTS:
        longest = max(range(len(lists)), key=lambda i: len(lists[i]))
        lists[longest] = lists[longest][::2]
    made = [
        replaced(state, dict(zip(free, sizes, strict=True))) for state in states for sizes in itertools.product(*lists)
    ]
    return construction.legal(list(dict.fromkeys([*states, *made])))


def polished(
    construction: Construction, states: Sequence[State], cost: Callable[[Sequence[State]], npt.NDArray[np.float64]]
) -> list[State]:
    """The states, and what is predicted to be quicker a step of one axis, or of one axis against another, away.

    The score decides by reuse alone; how many tasks a unit gets and how deep a reduction is cut, only the model knows.
    """
    found = dict(zip(states, cost(states), strict=True))
    best = list(states)
    for _ in range(_ROUNDS):
        near = list(dict.fromkeys(x for s in best for x in _near(construction, s) if x not in found))
        legal = construction.legal(near)
        if not legal:
            break
        limit = min(found.values())
        costs = dict(zip(legal, cost(legal), strict=True))
        found |= costs
        best = sorted(costs, key=lambda s: costs[s])[: len(states)]
        if costs[best[0]] >= limit:
            break
    return list(found)


def _near(construction: Construction, state: State) -> list[State]:
    steps: list[dict[int, int]] = []
    for axis in range(len(state)):
        for smaller in (False, True):
            steps += [{axis: size} for size in construction.next_size(state, axis, smaller)[:1]]
    both = [a | b for a, b in itertools.combinations(steps, 2) if a.keys() != b.keys()]
    return [replaced(state, changes) for changes in (*steps, *both)]
