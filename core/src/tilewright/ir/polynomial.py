"""Integer expressions as polynomials, so that equal extents and addresses look equal.

Sums and products are multiplied out. Whatever else an expression holds (a division, a minimum, a load) is an
indeterminate like a variable.
"""

from __future__ import annotations

import math

from tilewright.ir.expr import Apply, Const, Expr, const

Monomial = tuple[Expr, ...]
"""The indeterminates of a product, ordered by their text; () is the constant term."""

Polynomial = dict[Monomial, int]
"""Coefficients other than zero, by monomial."""


def polynomial(expr: Expr) -> Polynomial:
    """`expr` of an integer dtype, multiplied out."""
    match expr:
        case Const():
            return {(): int(expr.value)} if expr.value else {}
        case Apply(op="add" | "sub", args=(left, right)):
            return _sum(polynomial(left), polynomial(right), 1 if expr.op == "add" else -1)
        case Apply(op="neg", args=(inner,)):
            return _sum({}, polynomial(inner), -1)
        case Apply(op="mul", args=(left, right)):
            return _product(polynomial(left), polynomial(right))
        case _:
            return {(expr,): 1}


def expression(terms: Polynomial, dtype: str = "int64") -> Expr:
    """The sum of a polynomial's terms, those of most factors first."""
    total: Expr = const(0, dtype)
    for monomial, factor in sorted(terms.items(), key=lambda item: _rank(item[0])):
        total = total + term_of(monomial, dtype) * const(factor, dtype)
    return total


def term_of(monomial: Monomial, dtype: str = "int64") -> Expr:
    """The product of a monomial's factors."""
    product: Expr = const(1, dtype)
    for factor in monomial:
        product = product * factor
    return product


def canonical(expr: Expr) -> Expr:
    """The one way to write an integer polynomial; equal ones become structurally equal."""
    return expr if isinstance(expr, Const) else expression(polynomial(expr), expr.dtype)


def literal_factor(expr: Expr) -> int:
    """The largest literal that divides the expression for every value of its variables; 0 where it is always zero."""
    return math.gcd(*polynomial(expr).values())


def exact_quotient(dividend: Expr, divisor: Expr) -> Expr | None:
    """`dividend / divisor` where it is a polynomial, whatever the values of the variables; None otherwise."""
    rest, by = polynomial(dividend), polynomial(divisor)
    if not by:
        return None
    lead, lead_factor = min(by.items(), key=lambda item: _rank(item[0]))
    found: Polynomial = {}
    while rest:
        first, factor = min(rest.items(), key=lambda item: _rank(item[0]))
        monomial = _without(first, lead)
        if monomial is None or factor % lead_factor:
            return None
        step = {monomial: factor // lead_factor}
        found = _sum(found, step, 1)
        rest = _sum(rest, _product(step, by), -1)
    return expression(found, dividend.dtype)


def _rank(monomial: Monomial) -> tuple[int, list[str]]:
    """Order of monomials, compatible with products: by number of factors, then by their texts."""
    return -len(monomial), [repr(x) for x in monomial]


def _sum(a: Polynomial, b: Polynomial, sign: int) -> Polynomial:
    found = dict(a)
    for monomial, factor in b.items():
        total = found.pop(monomial, 0) + sign * factor
        if total:
            found[monomial] = total
    return found


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    found: Polynomial = {}
    for left, x in a.items():
        for right, y in b.items():
            found = _sum(found, {tuple(sorted((*left, *right), key=repr)): x * y}, 1)
    return found


def _without(monomial: Monomial, divisor: Monomial) -> Monomial | None:
    """The monomial with the factors of the divisor taken out; None when it lacks one."""
    rest = list(monomial)
    for factor in divisor:
        if factor not in rest:
            return None
        rest.remove(factor)
    return tuple(rest)
