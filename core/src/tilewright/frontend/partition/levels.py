"""Levels: which nodes may run together, and which sequences may stay inside of a part."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.frontend.partition.verdict import Classification, Verdict
from tilewright.frontend.reference import reads

COMPILED = ("native", "specialised")

_FROM_SHAPES = ("Shape", "Size")


def levels(found: Classification) -> list[tuple[int, Verdict]]:
    """The level of each node that is in a part: even for compiled ones, odd for those of the reference evaluator.

    A level is never lower than those of what the node reads, and higher than that of a value which must be known before
    the node can be compiled, or whose rows are counted once it is computed.
    """
    at: dict[str, int] = {}
    placed: list[tuple[int, Verdict]] = []
    # What follows from shapes and small inputs alone, so that it is known as soon as these are. All else hangs on data.
    settled = {*found.constants, *found.steerable}
    for verdict in found.verdicts:
        if verdict.where == "constant":
            continue
        node = verdict.node
        needed = reads(node)
        level = max((at[x] for x in needed if x in at), default=0)
        if verdict.where in COMPILED:
            level += level % 2
            known_first = (at[x] for x in verdict.steering if x in at and x not in settled)
            level = max(level, max(known_first, default=-2) + 2)
            if node.op_type in _FROM_SHAPES or needed <= settled:
                settled.update(node.output)
        else:
            level += 1 - level % 2
        placed.append((level, verdict))
        at.update((x, level + 2 if x in found.cut else level) for x in node.output if x)
    return placed


def without_crossing(found: Classification) -> Classification:
    """The model with no sequence that leaves a compiled part: what makes and takes such a one goes to the evaluator."""
    results = {x.name for x in found.source.proto.graph.output}
    while found.sequences:
        placed = levels(found)
        for family in _families(placed, found.sequences):
            inside = {x for _, v in family for x in (*v.node.output, *reads(v.node)) if x in found.sequences}
            alone = len({level for level, _ in family}) == 1 and all(v.where in COMPILED for _, v in family)
            if inside and not (alone and inside.isdisjoint(results)) and any(v.where in COMPILED for _, v in family):
                found = _demoted(found, [v for _, v in family])
                break
        else:
            break
    return found


def _families(
    placed: Sequence[tuple[int, Verdict]], sequences: frozenset[str]
) -> list[list[tuple[int, Verdict]]]:
    """The nodes, those together that pass a sequence on to each other."""
    families: list[tuple[set[str], list[tuple[int, Verdict]]]] = []
    for member in placed:
        names = {x for x in (*member[1].node.output, *reads(member[1].node)) if x in sequences}
        joined = [x for x in families if not names.isdisjoint(x[0])]
        families = [x for x in families if names.isdisjoint(x[0])]
        families.append((names.union(*(x[0] for x in joined)), [y for x in joined for y in x[1]] + [member]))
    return [members for names, members in families if names]


def _demoted(found: Classification, family: Sequence[Verdict]) -> Classification:
    def moved(verdict: Verdict) -> Verdict:
        if not any(verdict is x for x in family) or verdict.where not in COMPILED:
            return verdict
        return attrs.evolve(verdict, where="reference", why="makes or takes a sequence that leaves the compiled part.")

    return attrs.evolve(found, verdicts=tuple(map(moved, found.verdicts)))
