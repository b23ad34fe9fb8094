"""The variable that numbers the lanes of a vector."""

from __future__ import annotations

from tilewright.ir.expr import Expr, const, substitute

LANE = "lane"


def at_lane(expr: Expr, value: Expr | int) -> Expr:
    """`expr` with the lane replaced."""
    return substitute(expr, {LANE: const(value) if isinstance(value, int) else value})
