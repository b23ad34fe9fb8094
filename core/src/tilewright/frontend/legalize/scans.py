"""CumSum and CumProd: recurrences along one axis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tilewright.frontend.legalize.builder import Builder, Tensor, wide
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family, Legalizer
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, const

rule = Family()


def _cumulative(start: int, merge: Callable[[Expr, Expr], Expr]) -> Legalizer:
    def build(b: Builder, node: Node) -> Tensor:
        x = node[0]
        axis = node.normal_axis(int(np.asarray(node.constant(1, "axis")).reshape(-1)[0]), x.rank)
        exclusive, reverse = bool(node.attr("exclusive", 0)), bool(node.attr("reverse", 0))

        def place(*i: Expr) -> tuple[Expr, ...]:
            return (*i[:axis], x.shape[axis] - 1 - i[axis] if reverse else i[axis], *i[axis + 1 :])

        return b.scan(
            x.dtype,
            x.shape,
            axis,
            const(start, dtypes.accumulator(x.dtype)),
            lambda before, *i: merge(before, wide(x[place(*i)])),
            lambda before, after: before if exclusive else after,
            place,
        )

    return build


rule("CumSum")(_cumulative(0, lambda a, b: a + b))
rule("CumProd")(_cumulative(1, lambda a, b: a * b))
