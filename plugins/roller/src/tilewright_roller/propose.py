"""`propose = "roller"`: rTiles by construction, ranked by the cost slot and, where options say so, measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tilewright.device import DeviceModel
from tilewright.ir.choice import TileChoice, undominated
from tilewright.ir.group import Group
from tilewright.ir.program import Envelope
from tilewright.planning.requests import Propose, Request
from tilewright.planning.session import Session
from tilewright.recipes import Columns, Match, evaluate
from tilewright.views.symbols import group_symbols
from tilewright_roller.construct import Construction, State
from tilewright_roller.cost import predict
from tilewright_roller.measure import measured
from tilewright_roller.options import RollerOptions
from tilewright_roller.rtile import rtiles
from tilewright_roller.scale import grown, polished, shrunk, varied

_WORTH = 4.0
"""How many times as slow as the best a choice may be to be kept for its fewer tasks."""
_REFINED = 16
"""States of which the parameters that cut no tile are varied."""
_POLISHED = 6
"""States of which the neighbours are looked at."""


_NO_ROOM = 1e3
"""Seconds that are added to the prediction for a choice without room: more than any kernel takes."""


def make(options: RollerOptions) -> Propose:
    """The service."""

    def propose(group: Group, request: Request) -> tuple[TileChoice, ...]:
        session = request.session
        found = [x for match in session.matches(group) for x in _choices(match, session, options, request.envelope)]
        limit = request.envelope
        choices = _ranked([x for x in found if limit is None or _fits(x, limit)] or found, options.topk)
        # A trial knows nothing of limits, and needs fixed shapes. An estimate is no reason for one.
        if choices and options.measure and request == session.request() and not group_symbols(group, session.symbols):
            best = sorted(_distinct(found), key=lambda c: (c.cost, c.resources.tasks))[: options.measure]
            return (*measured(best, group, session), *(c for c in choices if c not in best))
        return choices

    return propose


def construct(match: Match, device: DeviceModel, options: RollerOptions) -> Construction:
    """The construction of a kernel's rTiles under one recipe, shrunk tiles included."""
    made = Construction(match, device, options.beam)
    made.run()
    if options.shrink and made.visited:
        largest = list(made.visited)[-options.beam :]
        for state in largest:
            for smaller in shrunk(made, state):
                made.visited.setdefault(smaller, "shrunk")
    return made


def _choices(
    match: Match, session: Session, options: RollerOptions, envelope: Envelope | None = None
) -> list[TileChoice]:
    """The choices under one recipe; where an envelope has room for some, those only."""
    made = construct(match, session.device, options)
    if envelope is not None:
        fewer = grown(made, list(made.visited), envelope.units)
        made.visited.update((x, "few") for x in fewer if x not in made.visited)
    states = list(made.visited)
    if not states:
        return []

    def cost(of: Sequence[State]) -> npt.NDArray[np.float64]:
        columns = made.columns(of)
        return session.cost(match, columns) + (0.0 if envelope is None else _too_large(match, columns, envelope))

    refined = varied(made, _promising(made, states, cost, _REFINED))
    polish = polished(made, _promising(made, refined, cost, _POLISHED), cost)
    states = list(dict.fromkeys([*polish, *refined, *states]))
    columns = made.columns(states)
    tasks = made.tasks(states)
    kept = _front(cost(states), tasks.astype(np.float64), 2 * max(options.topk, options.measure))
    costs = session.cost(match, columns)
    names = [p.name for p in match.parameters]
    prediction = predict(match, {name: column[kept] for name, column in columns.items()}, session.device)
    found = []
    for row, i in enumerate(kept):
        params = dict(zip(names, states[i], strict=True))
        level = made.visited.get(states[i], "near")
        why = _why(match, params, int(tasks[i]), prediction.bound(row), level, session.device)
        found.append(match.choice(params, float(costs[i]), why))
    return found


def _too_large(match: Match, columns: Columns, envelope: Envelope) -> npt.NDArray[np.float64]:
    """Seconds that put the choices last that an envelope has no room for."""
    rows = len(next(iter(columns.values())))
    usage = match.usage
    limits = (
        (usage.tasks, envelope.units),
        (usage.threads, envelope.threads),
        (usage.registers, envelope.registers),
        (usage.shared_bytes, envelope.shared_bytes),
    )
    over = [evaluate(expr, columns, rows) > limit for expr, limit in limits]
    return np.where(np.any(over, axis=0), _NO_ROOM, 0.0)


def _fits(choice: TileChoice, envelope: Envelope) -> bool:
    """Whether an envelope has room for a choice, and units for all of its tasks."""
    return choice.resources.tasks <= envelope.units and envelope.holds(choice.resources)


def _promising(
    made: Construction, states: Sequence[State], cost: Callable[[Sequence[State]], npt.NDArray[np.float64]], count: int
) -> list[State]:
    return [states[i] for i in _front(cost(states), made.tasks(states).astype(np.float64), count)]


def _front(costs: npt.NDArray[np.float64], tasks: npt.NDArray[np.float64], count: int) -> list[int]:
    """Up to `count` rows: half of them the cheapest, the others from the front of time against tasks."""
    order = [int(i) for i in np.lexsort((tasks, costs)) if costs[i] <= _WORTH * costs.min()]
    front: list[int] = []
    fewest = np.inf
    for i in order:
        if tasks[i] < fewest:
            front.append(i)
            fewest = tasks[i]
    half = order[: max(count // 2, 1)]
    return list(dict.fromkeys([*half, *front, *order]))[:count]


def _ranked(choices: Sequence[TileChoice], topk: int) -> tuple[TileChoice, ...]:
    """The best undominated choices: half of them the quickest, the others those that are quick with few tasks."""
    kept = undominated(_distinct(choices))
    costs = np.asarray([c.cost for c in kept])
    tasks = np.asarray([float(c.resources.tasks) for c in kept])
    picked = [kept[i] for i in sorted(_front(costs, tasks, topk))]
    return tuple(picked)


def _distinct(choices: Sequence[TileChoice]) -> list[TileChoice]:
    known: dict[tuple[str, tuple[tuple[str, int], ...]], TileChoice] = {(c.recipe, c.params): c for c in choices}
    return list(known.values())


def _why(match: Match, params: dict[str, int], tasks: int, bound: str, level: str, device: DeviceModel) -> str:
    """One line for `explain`."""
    tiles = ", ".join(str(x) for x in rtiles(match, params) if x.shape)
    how = {
        "": "aligned",
        "near": "better than one grown by reuse beside it",
        "shrunk": "shrunk until every unit has a task",
        "few": "grown until few tasks are left",
    }.get(level, f"grown by reuse up to {level}")
    waves = tasks / device.units
    return f"{how}: {tiles or 'no tile'}; {tasks} tasks, {waves:.1f} per unit; bound by {bound}"
