"""What is known about integer expressions inside an iteration domain and under a guard."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from tilewright.ir.bounds import INFINITY, Bounds, Interval, bounds_of, linear_terms
from tilewright.ir.expr import Apply, Const, Expr, Var, const, loads, static, substitute, variables
from tilewright.ir.ops import Axis
from tilewright.ir.polynomial import polynomial

Linear = frozenset[tuple[int, Expr]]


class Ranges:
    """Intervals over the points of a domain at which a guard holds.

    Args:
        axes: the domain.
        symbols: intervals of the symbols in extents.
        guard: conditions that hold (None: nothing more).
    """

    def __init__(self, axes: Iterable[Axis], symbols: Bounds, guard: Expr | None = None) -> None:
        self._extents = {x.name: x.extent for x in axes}
        self._bounds = dict(symbols)
        for name, extent in self._extents.items():
            self._bounds[name] = Interval(0, max(bounds_of(extent, symbols).high - 1, 0))
        # linear part without its constant, divided by the common factor -> smallest value
        self._least: dict[Linear, int] = {}
        for fact in facts(guard):
            self._learn(fact)

    def _learn(self, fact: Expr) -> None:
        """Takes in `fact >= 0`."""
        constant, linear, scale = linear_form(fact)
        least = -(constant // scale)
        self._least[linear] = max(least, self._least.get(linear, least))
        if len(linear) == 1:
            ((factor, term),) = linear
            if isinstance(term, Var):
                known = self._bounds.get(term.name, Interval(-INFINITY, INFINITY))
                low, high = (max(known.low, least), known.high) if factor > 0 else (known.low, min(known.high, -least))
                self._bounds[term.name] = Interval(low, high)

    def interval(self, expr: Expr) -> Interval:
        """Closed interval that holds every value of `expr`; empty when the guard never holds."""
        if expr.dtype != "int64":
            return bounds_of(expr, self._bounds)
        constant, linear, scale = linear_form(expr)
        low = high = 0
        for factor, term in linear:
            part = self._term(term)
            ends = (factor * part.low, factor * part.high)
            low, high = low + min(ends), high + max(ends)
        negative = frozenset((-factor, term) for factor, term in linear)
        low = max(low, self._least.get(linear, low))
        high = min(high, -self._least[negative] if negative in self._least else high)
        return Interval(max(low * scale + constant, -INFINITY), min(high * scale + constant, INFINITY))

    def _term(self, term: Expr) -> Interval:
        if not isinstance(term, Apply):
            return bounds_of(term, self._bounds)
        # The operands may be known better than their parts are: stand-ins carry what is known into `bounds_of`.
        stand_ins = tuple(Var(f"operand {i}", x.dtype) for i, x in enumerate(term.args))
        known = {v.name: self.interval(x) for v, x in zip(stand_ins, term.args, strict=True) if x.dtype == "int64"}
        if len(known) < len(term.args):
            return bounds_of(term, self._bounds)
        args = tuple(x if isinstance(x, Const) else v for x, v in zip(term.args, stand_ins, strict=True))
        return bounds_of(Apply(term.op, args, term.dtype), known)

    def never_negative(self, expr: Expr) -> bool:
        """Whether `expr >= 0` is proven."""
        if self.interval(expr).low >= 0:
            return True
        # With symbolic extents: put each axis at the end of its range where `expr` is smallest.
        least: Expr = const(0)
        for factor, term in linear_terms(expr):
            if isinstance(term, Var) and term.name in self._extents:
                if factor < 0:
                    least = least + (self._extents[term.name] - 1) * factor
            elif isinstance(term, (Const, Var)):
                least = least + term * factor
            elif _divides(term, factor):
                least = least + _least_quotient(term, factor)
            elif not variables(term) & self._extents.keys() and not loads(term):
                least = least + term * factor
            elif self._steps(term):
                if factor < 0:
                    least = least + substitute(term, {n: x - 1 for n, x in self._extents.items()}) * factor
            else:
                part = self._term(term)
                least = least + factor * (part.low if factor > 0 else part.high)
        return self._proven(least)

    def _proven(self, expr: Expr) -> bool:
        """Whether `expr >= 0`, looking into quotients, minima that are subtracted and maxima that are added."""
        if self.interval(expr).low >= 0:
            return True
        for factor, term in linear_terms(expr):
            if _divides(term, factor):
                return self._proven(expr - term * factor + _least_quotient(term, factor))
            if isinstance(term, Apply) and term.op == ("max" if factor > 0 else "min"):
                return any(self._proven(expr - term * factor + x * factor) for x in term.args)
        return False

    def _steps(self, term: Expr) -> bool:
        """Whether a term is a product of axes and symbols, so that it is largest at the ends of the axes."""
        return all(isinstance(x, Var) and bounds_of(x, self._bounds).low >= 0 for x in _factors(term))

    def inside(self, index: Expr, extent: Expr) -> bool:
        """Whether `0 <= index < extent` is proven."""
        return self.never_negative(index) and self.never_negative(extent - 1 - index)

    def outside(self, index: Expr, extent: Expr) -> bool:
        """Whether no point has `0 <= index < extent`, although there are points."""
        found, over = self.interval(index), self.interval(index - extent)
        possible = found.low <= found.high and all(x.low <= x.high for x in self._bounds.values())
        return possible and (found.high < 0 or over.low >= 0)


def _factors(term: Expr) -> tuple[Expr, ...]:
    """The factors of a product; the term itself when it is none."""
    ((factors, _),) = polynomial(term).items()
    return factors


def _divides(term: Expr, factor: int) -> bool:
    """Whether a term is a quotient by a literal that divides its factor."""
    if not isinstance(term, Apply) or term.op != "floordiv":
        return False
    divisor = term.args[1]
    return isinstance(divisor, Const) and divisor.value > 0 and factor % static(divisor) == 0


def _least_quotient(term: Expr, factor: int) -> Expr:
    """A lower bound of `factor · term` without the division: d · (x // d) lies between x - (d - 1) and x."""
    assert isinstance(term, Apply)
    x, divisor = term.args
    return (x - (divisor - 1) if factor > 0 else x) * (factor // static(divisor))


def linear_form(expr: Expr) -> tuple[int, Linear, int]:
    """`expr` as constant + scale · linear part; equal sums have equal forms."""
    constant = 0
    terms: list[tuple[int, Expr]] = []
    for factor, term in linear_terms(expr):
        if isinstance(term, Const):
            constant += factor
        else:
            terms.append((factor, term))
    scale = math.gcd(*(factor for factor, _ in terms)) or 1
    return constant, frozenset((factor // scale, term) for factor, term in terms), scale


def conjuncts(guard: Expr | None) -> list[Expr]:
    """The conditions that a guard is the conjunction of."""
    if guard is None:
        return []
    if isinstance(guard, Apply) and guard.op == "and":
        return [*conjuncts(guard.args[0]), *conjuncts(guard.args[1])]
    return [guard]


def facts(guard: Expr | None) -> Iterator[Expr]:
    """Integer expressions that are not negative where the guard holds."""
    for condition in conjuncts(guard):
        compared, positive = condition, True
        if isinstance(condition, Apply) and condition.op == "not":
            compared, positive = condition.args[0], False
        if not isinstance(compared, Apply) or len(compared.args) != 2 or compared.args[0].dtype != "int64":
            continue
        left, right = compared.args
        match compared.op:
            case "eq" if positive:
                yield right - left
                yield left - right
            case "lt":
                yield right - left - 1 if positive else left - right
            case "le":
                yield right - left if positive else left - right - 1


def is_affine(expr: Expr) -> bool:
    """Whether an index is a sum of variables with literal factors."""
    return all(isinstance(term, (Const, Var)) for _, term in linear_terms(expr))
