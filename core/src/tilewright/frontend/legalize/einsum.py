"""Einsum: any number of operands, ellipses and repeated letters."""

from __future__ import annotations

from collections import Counter

from tilewright.frontend.legalize.builder import Builder, Tensor, wide
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, Extent, as_expr

rule = Family()

Labels = tuple[str, ...]


@rule("Einsum")
def _einsum(b: Builder, node: Node) -> Tensor:
    operands = [x for x in node.inputs if x is not None]
    terms, result = _parse(node, operands)
    current, labels = operands[0], terms[0]
    out = node.out()
    if len(operands) == 1:
        return _contract(b, [(current, labels)], result, out.dtype)
    for n in range(1, len(operands)):
        last = n == len(operands) - 1
        needed = {x for later in (*terms[n + 1 :], result) for x in later}
        kept = result if last else tuple(dict.fromkeys(x for x in (*labels, *terms[n]) if x in needed))
        stored = out.dtype if last else dtypes.accumulator(out.dtype)
        current = _contract(b, [(current, labels), (operands[n], terms[n])], kept, stored)
        labels = kept
    return current


def _parse(node: Node, operands: list[Tensor]) -> tuple[list[Labels], Labels]:
    """Labels of each operand's dimensions and of the result's. Dimensions of an ellipsis are labelled `.0`, `.1`, …"""
    equation = str(node.attr("equation")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    written = left.split(",")
    if len(written) != len(operands):
        raise node.unsupported(f"has {len(operands)} operands for the equation {equation!r}.", "Repair the model.")
    widest = max(
        (x.rank - len(t.replace("...", "")) for x, t in zip(operands, written, strict=True) if "..." in t), default=0
    )

    def labels(term: str, rank: int) -> Labels:
        before, dots, after = term.partition("...")
        missing = rank - len(before) - len(after) if dots else 0
        ellipsis = tuple(f".{n}" for n in range(widest - missing, widest))
        return (*before, *ellipsis, *after)

    terms = [labels(t, x.rank) for x, t in zip(operands, written, strict=True)]
    if arrow:
        return terms, labels(right, widest + len(right.replace("...", "")))
    counts = Counter(x for term in terms for x in term)
    dots = tuple(f".{n}" for n in range(widest))
    return terms, (*dots, *sorted(x for x, n in counts.items() if n == 1 and not x.startswith(".")))


def _contract(b: Builder, operands: list[tuple[Tensor, Labels]], result: Labels, dtype: str) -> Tensor:
    """Product of the operands summed over every label that the result lacks."""
    extents: dict[str, Extent] = {}
    for x, labels in operands:
        for label, n in zip(labels, x.extents, strict=True):
            known = extents.get(label, 1)
            extents[label] = n if known == 1 else known if n == 1 else b.same(known, n)
    summed = [x for x in extents if x not in result]

    def body(*i: Expr) -> Expr:
        at = dict(zip((*result, *summed), i, strict=True))
        total: Expr | None = None
        for x, labels in operands:
            index = tuple(as_expr(0) if n == 1 else at[k] for k, n in zip(labels, x.extents, strict=True))
            factor = wide(x[index])
            total = factor if total is None else total * factor
        assert total is not None
        return total

    shape = [extents[x] for x in result]
    if not summed:
        return b.compute(dtype, shape, body)
    return b.reduce(dtype, shape, [extents[x] for x in summed], "sum", body)
