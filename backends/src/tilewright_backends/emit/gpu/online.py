"""The maximum of a row that lanes share, as scores come in blocks, and what earlier sums are multiplied with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tvm import tirx

from tilewright.ir.expr import Expr, const
from tilewright_backends.emit.gpu.body import GpuBody, i32
from tilewright_backends.emit.gpu.points import point_at
from tilewright_backends.lower import types
from tilewright_backends.lower.types import Prim
from tilewright_backends.recipes.gpu.flat_attention import Attention


def raise_to(body: GpuBody, best: Prim, score: Prim) -> None:
    """Makes a register the larger of itself and a score.

    NaN is passed over: its power makes the total of the row NaN, and with it all that is divided by that.
    """
    old = best[i32(0)]
    body.store(best, i32(0), tirx.Select(tirx.LT(old, score), score, old))


def rescale(body: GpuBody, best: Prim, highest: Prim, number: int, distances: Sequence[int]) -> Prim:
    """Merges the maxima of the lanes and gives the factor of sums that are relative to the old one.

    As long as every score is -inf, powers are taken relative to 0, so that they are 0 and not NaN.

    Args:
        best: the lane's maximum; afterwards what powers are taken relative to.
        highest: the old maxima of the rows, of which `number` becomes the new one.
        distances: between lanes that share the row, powers of two.
    """
    for distance in distances:
        raise_to(body, best, body.bind(body.across(best[i32(0)], distance), "other"))
    low = tirx.EQ(best[i32(0)], types.literal(-math.inf, "float32"))
    base = body.bind(tirx.Select(low, types.literal(0.0, "float32"), best[i32(0)]), "base")
    factor = body.bind(body.semantics.function("exp", highest[i32(number)] - base, body.bind), "factor")
    body.store(highest, i32(number), best[i32(0)])
    body.store(best, i32(0), base)
    return factor


def power(body: GpuBody, score: Prim, best: Prim) -> Prim:
    """The weight of a score, before it is rounded."""
    return body.bind(body.semantics.function("exp", score - best[i32(0)], body.bind), "power")


def cleared(body: GpuBody, found: Attention, at: Mapping[str, Expr], sums: Prim, places: Sequence[Prim]) -> None:
    """Makes a row's sums 0 where its weights are, whatever the softmax gives.

    Args:
        at: values of the axes of batch and rows.
    """
    if found.spec.empty is None:
        return
    here = {**at, found.spec.keys.name: const(0)}
    with body.when(point_at(body, found.scores, here).value(found.spec.empty)):
        for place in places:
            body.store(sums, place, types.literal(0.0, "float32"))


def inverse(body: GpuBody, total: Prim, distances: Sequence[int]) -> Prim:
    """The factor of a row's sums in the end. A row without any weight becomes NaN, as softmax makes it."""
    for distance in distances:
        mine = body.bind(total, "total")
        total = mine + body.across(mine, distance)
    return body.bind(types.literal(1.0, "float32") / body.bind(total, "total"), "inverse")
