"""`propose = "divisors"`: every combination of the recipes' candidate sizes, ranked by the cost slot.

No construction and no search: the candidates are the sizes that the recipes name, those that do not meet the
constraints are dropped, and the cheapest undominated ones are kept.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from tilewright.ir.choice import TileChoice, undominated
from tilewright.ir.group import Group
from tilewright.planning.requests import Propose, Request
from tilewright.recipes import Columns, Match

MAX_COMBINATIONS = 50_000
KEPT = 32


def make() -> Propose:
    """The service."""

    def propose(group: Group, request: Request) -> tuple[TileChoice, ...]:
        found: list[TileChoice] = []
        for match in request.session.matches(group):
            columns = combinations(match)
            allowed = match.allowed(columns)
            columns = {name: column[allowed] for name, column in columns.items()}
            if match.parameters and not len(columns[match.parameters[0].name]):
                continue
            costs = request.session.cost(match, columns)
            for row in np.argsort(costs, kind="stable")[:KEPT]:
                params = {name: int(column[row]) for name, column in columns.items()}
                found.append(match.choice(params, float(costs[row]), "cheapest of the candidate sizes"))
        return tuple(undominated(found))

    return propose


def combinations(match: Match) -> Columns:
    """All combinations of the parameters' candidates, one per row.

    When there are too many, the longest lists of candidates are thinned out until they fit.
    """
    lists = [list(p.candidates) for p in match.parameters]
    while math.prod(len(x) for x in lists) > MAX_COMBINATIONS:
        longest = max(range(len(lists)), key=lambda i: len(lists[i]))
        lists[longest] = lists[longest][::-2][::-1]  # every other one; the largest stays
    rows = np.asarray(list(itertools.product(*lists)), np.int64).reshape(-1, len(lists))
    return {p.name: rows[:, i] for i, p in enumerate(match.parameters)}
