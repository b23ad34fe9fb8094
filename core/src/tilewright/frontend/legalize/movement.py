"""Concat, Split, Expand and the like: operators that copy elements."""

from __future__ import annotations

from tilewright.frontend.legalize.builder import Builder, Tensor
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.ir.expr import Expr, select

rule = Family()


@rule("Concat")
def _concat(b: Builder, node: Node) -> Tensor:
    parts = [x for x in node.inputs if x is not None]
    axis = node.axis(parts[0].rank, 1)
    parts = [x for x in parts if x.shape[axis]] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    out = node.out()
    starts = [sum(x.shape[axis] for x in parts[:n]) for n in range(len(parts) + 1)]

    def body(*i: Expr) -> Expr:
        at = i[axis]

        def part(n: int) -> Expr:
            inside = None
            for condition in ([at >= starts[n]] if n else []) + (
                [at < starts[n + 1]] if n + 1 < len(parts) else []
            ):
                inside = condition if inside is None else inside & condition
            return parts[n].guarded(inside, (*i[:axis], at - starts[n], *i[axis + 1 :]))

        result = part(len(parts) - 1)
        for n in range(len(parts) - 2, -1, -1):
            result = select(at < starts[n + 1], part(n), result)
        return result

    return b.compute(out.dtype, out.static_shape(), body)


@rule("Expand")
def _expand(b: Builder, node: Node) -> Tensor:
    x, out = node[0], node.out()
    return x if x.shape == out.static_shape() else b.compute(x.dtype, out.static_shape(), lambda *i: x.at(i))
