"""Bounds of integer expressions, and the simplifications that need them.

The chief user is the propagation of axes through reshapes: with `0 <= d < 64`, `(h*64 + d) // 64` is exactly `h`.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from tilewright.ir import dtypes
from tilewright.ir.expr import Apply, Const, Expr, Var, apply, const, rebuild
from tilewright.ir.polynomial import polynomial, term_of

INFINITY = 1 << 62


@attrs.frozen
class Interval:
    """Closed integer interval [low, high]."""

    low: int
    high: int

    def is_point(self) -> bool:
        return self.low == self.high


Bounds = Mapping[str, Interval]


def bounds_of(expr: Expr, bounds: Bounds) -> Interval:
    """The interval that `expr` lies in, given the intervals of its variables (an unknown one is unbounded).

    Floats and narrow types are unbounded. Integers narrower than int64 may wrap; then all that is known is their
    dtype's range.
    """
    if dtypes.kind(expr.dtype) in "fn":
        return Interval(-INFINITY, INFINITY)
    if isinstance(expr, Const):
        return Interval(int(expr.value), int(expr.value))
    if isinstance(expr, Var):
        return bounds.get(expr.name, _of_dtype(expr.dtype))
    if isinstance(expr, Apply):
        if expr.dtype == "bool":
            return Interval(0, 1)
        args = [bounds_of(x, bounds) for x in expr.args[-2:]]
        if expr.op == "cast" and not dtypes.is_float(expr.args[0].dtype):
            target = _of_dtype(expr.dtype)
            return args[0] if target.low <= args[0].low and args[0].high <= target.high else target
        found = _combine(expr.op, args)
        whole = _of_dtype(expr.dtype)
        if found is not None and (expr.dtype == "int64" or (whole.low <= found.low and found.high <= whole.high)):
            return Interval(max(found.low, -INFINITY), min(found.high, INFINITY))
    return _of_dtype(expr.dtype)


def _of_dtype(dtype: str) -> Interval:
    low, high = dtypes.integer_range(dtype) if dtypes.kind(dtype) in "ib" else (-INFINITY, INFINITY)
    return Interval(max(low, -INFINITY), min(high, INFINITY))


def _combine(op: str, args: list[Interval]) -> Interval | None:
    a = args[0]
    b = args[-1]
    match op:
        case "add":
            return Interval(a.low + b.low, a.high + b.high)
        case "sub":
            return Interval(a.low - b.high, a.high - b.low)
        case "neg":
            return Interval(-a.high, -a.low)
        case "mul":
            corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
            return Interval(min(corners), max(corners))
        case "floordiv" if b.low > 0:
            corners = [x // y for x in (a.low, a.high) for y in (b.low, b.high)]
            return Interval(min(corners), max(corners))
        case "floormod" if b.low > 0:
            if b.is_point() and a.low // b.low == a.high // b.low:
                return Interval(a.low % b.low, a.high % b.low)
            return Interval(0, b.high - 1)
        case "min":
            return Interval(min(a.low, b.low), min(a.high, b.high))
        case "max":
            return Interval(max(a.low, b.low), max(a.high, b.high))
        case "select":
            return Interval(min(a.low, b.low), max(a.high, b.high))
        case "abs" if a.low >= 0:
            return a
        case _:
            return None


def simplify(expr: Expr, bounds: Bounds) -> Expr:
    """`expr` with comparisons decided and divisions carried out where the bounds allow it."""
    done: dict[Expr, Expr] = {}

    def visit(node: Expr) -> Expr:
        if not isinstance(node, Apply):
            return node
        found = done.get(node)
        if found is None:
            rebuilt = rebuild(node, tuple(visit(x) for x in node.args))
            found = done[node] = _decided(rebuilt, bounds) if isinstance(rebuilt, Apply) else rebuilt
        return found

    return visit(expr)


def _decided(node: Apply, bounds: Bounds) -> Expr:
    match node.op:
        case "floordiv" | "floormod" if isinstance(node.args[1], Const) and node.dtype == "int64":
            return _divide(node, bounds)
        case "lt" | "le" if not dtypes.is_float(node.args[0].dtype):
            left, right = (bounds_of(x, bounds) for x in node.args)
            strict = node.op == "lt"
            if left.high < right.low or (not strict and left.high == right.low):
                return const(True, "bool")
            if left.low > right.high or (strict and left.low == right.high):
                return const(False, "bool")
        case "min" | "max" if not dtypes.is_float(node.dtype):
            left, right = (bounds_of(x, bounds) for x in node.args)
            if left.high <= right.low:
                return node.args[0] if node.op == "min" else node.args[1]
            if right.high <= left.low:
                return node.args[1] if node.op == "min" else node.args[0]
    return node


def _divide(node: Apply, bounds: Bounds) -> Expr:
    """x // c and x % c with the terms of x that c divides taken out."""
    x, c = node.args
    assert isinstance(c, Const)
    divisor = int(c.value)
    if divisor <= 0:
        return node
    quotient, rest = const(0, node.dtype), const(0, node.dtype)
    whole: Expr = quotient
    remainder: Expr = rest
    for factor, term in linear_terms(x):
        if factor % divisor == 0:
            whole = whole + term * const(factor // divisor, node.dtype)
        else:
            remainder = remainder + term * const(factor, node.dtype)
    inside = bounds_of(remainder, bounds)
    if inside.low // divisor == inside.high // divisor:
        shift = inside.low // divisor
        if node.op == "floordiv":
            return whole + const(shift, node.dtype)
        return remainder - const(shift * divisor, node.dtype)
    if node.op == "floormod":
        return apply("floormod", remainder, c)
    if isinstance(remainder, Apply) and remainder.op == "floordiv" and isinstance(remainder.args[1], Const):
        # (y // a) // b
        inner = remainder.args[1]
        return whole + apply("floordiv", remainder.args[0], const(int(inner.value) * divisor, node.dtype))
    return whole + apply("floordiv", remainder, c)


def linear_terms(expr: Expr) -> list[tuple[int, Expr]]:
    """`expr` as Σ factor·term with literal factors; the constant part is the term `1`. Products are multiplied out."""
    terms: dict[Expr, int] = {}

    def add(node: Expr, factor: int) -> None:
        if isinstance(node, Const):
            one = const(1, node.dtype)
            terms[one] = terms.get(one, 0) + factor * int(node.value)
        elif isinstance(node, Apply) and node.op in ("add", "sub"):
            add(node.args[0], factor)
            add(node.args[1], factor if node.op == "add" else -factor)
        elif isinstance(node, Apply) and node.op == "neg":
            add(node.args[0], -factor)
        elif isinstance(node, Apply) and node.op == "mul" and isinstance(node.args[1], Const):
            add(node.args[0], factor * int(node.args[1].value))
        elif isinstance(node, Apply) and node.op == "mul":
            for monomial, inner in polynomial(node).items():
                term = term_of(monomial, node.dtype)
                terms[term] = terms.get(term, 0) + factor * inner
        else:
            terms[node] = terms.get(node, 0) + factor

    add(expr, 1)
    return [(factor, term) for term, factor in terms.items() if factor]


def affine(expr: Expr, names: frozenset[str]) -> dict[str | None, int] | None:
    """Coefficients of `expr` over `names` (key None: the constant), or None when it is not affine in them."""
    found: dict[str | None, int] = {None: 0}
    for factor, term in linear_terms(expr):
        if isinstance(term, Const):
            found[None] = found[None] + factor
        elif isinstance(term, Var) and term.name in names:
            found[term.name] = found.get(term.name, 0) + factor
        else:
            return None
    return found
