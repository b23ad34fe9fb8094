"""ArgMax, ArgMin, Hardmax and TopK: operators that look for extreme elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tilewright.frontend.legalize.builder import Builder, Tensor
from tilewright.frontend.legalize.layout import transpose
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, Var, const, eq, select
from tilewright.ir.ops import Combiner

rule = Family()

_FAR = (1 << 63) - 1


def extreme(dtype: str, largest: bool = True, first: bool = True) -> Combiner:
    """States (index, value): the extreme value and where it is; of equal values the first or the last.

    The identity's index loses against every other one, so that an infinite element is still found.
    """
    low, high = (-math.inf, math.inf) if dtypes.is_float(dtype) else dtypes.integer_range(dtype)
    a, b = (Var("a0"), Var("a1", dtype)), (Var("b0"), Var("b1", dtype))
    better = b[1] > a[1] if largest else b[1] < a[1]
    nearer = b[0] < a[0] if first else b[0] > a[0]
    later = better | (eq(b[1], a[1]) & nearer)
    return Combiner(
        "argmax" if largest else "argmin",
        (const(_FAR if first else -1), const(low if largest else high, dtype)),
        (select(later, b[0], a[0]), select(later, b[1], a[1])),
    )


def arg_extreme(b: Builder, x: Tensor, axes: Sequence[int], how: Combiner, keep: bool, name: str = "") -> Tensor:
    """Row-major position inside `axes` of the extreme element of `x` over them, as int64."""
    reduced = sorted(axes)
    kept = [d for d in range(x.rank) if d not in reduced]
    spatial = [1 if d in reduced else n for d, n in enumerate(x.extents) if keep or d in kept]

    def body(*i: Expr) -> tuple[Expr, Expr]:
        index: list[Expr] = [const(0)] * x.rank
        for d, at in zip(range(x.rank) if keep else kept, i, strict=False):
            index[d] = at
        position: Expr = const(0)
        for d, r in zip(reduced, i[len(spatial) :], strict=True):
            index[d] = r
            position = position * x.extents[d] + r
        return position, x[tuple(index)]

    if all(x.extents[d] == 1 for d in reduced):
        return b.compute("int64", spatial, lambda *i: const(0), name)
    return b.domain([("int64", spatial)], spatial, [x.extents[d] for d in reduced], body, how=how, name=name)[0]


@rule("ArgMax", "ArgMin")
def _arg(b: Builder, node: Node) -> Tensor:
    x = node[0]
    largest, first = node.op.op_type == "ArgMax", not node.attr("select_last_index", 0)
    how = extreme(x.dtype, largest, first)
    return arg_extreme(b, x, [node.axis(x.rank, 0)], how, bool(node.attr("keepdims", 1)))


@rule("Hardmax")
def _hardmax(b: Builder, node: Node) -> Tensor:
    x = node[0]
    axes = [node.axis(x.rank, -1)] if node.version >= 13 else list(range(node.axis(x.rank, 1), x.rank))
    found = arg_extreme(b, x, axes, extreme(x.dtype), True, "argmax")

    def body(*i: Expr) -> Expr:
        position: Expr = const(0)
        for d in axes:
            position = position * x.extents[d] + i[d]
        return select(eq(position, found.at(i)), const(1, x.dtype), const(0, x.dtype))

    return b.compute(x.dtype, x.extents, body)


@rule("TopK")
def _top_k(b: Builder, node: Node) -> list[Tensor | None]:
    x = node[0]
    axis = node.axis(x.rank, -1)
    count = int(node.attr("k")) if node.version < 10 else int(np.asarray(node.constant(1, "count")).reshape(-1)[0])
    order = [d for d in range(x.rank) if d != axis] + [axis]
    rows = transpose(b, x, order, "rows")
    shape = (*rows.shape[:-1], count)
    attributes = {"count": count, "largest": bool(node.attr("largest", 1))}
    values, indices = b.routine("topk", [rows], [(x.dtype, shape), ("int64", shape)], attributes, x.rank - 1)
    back = [order.index(d) for d in range(x.rank)]
    return [transpose(b, values, back), transpose(b, indices, back)]
