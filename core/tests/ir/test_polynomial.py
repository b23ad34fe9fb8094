"""Polynomials: one way to write each, and division that is exact or refused."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.interpret.evaluate import evaluate
from tilewright.ir.bounds import linear_terms
from tilewright.ir.expr import Expr, Var, as_expr, const
from tilewright.ir.polynomial import canonical, exact_quotient

S, T = Var("s"), Var("t")
LEAVES = st.one_of(st.sampled_from([S, T, S // const(2)]), st.integers(-4, 4).map(const))


def _grow(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    pairs = st.tuples(inner, inner)
    return st.one_of(*(pairs.map(lambda x, op=op: op(*x)) for op in (operator.add, operator.sub, operator.mul)))


EXPRS = st.recursive(LEAVES, _grow, max_leaves=6)
VALUES = st.fixed_dictionaries({"s": st.integers(-5, 9), "t": st.integers(-5, 9)})


@given(EXPRS, VALUES)
def test_the_canonical_form_and_the_terms_have_the_same_value(expr: Expr, env: dict[str, int]) -> None:
    value = int(evaluate(expr, env))
    assert int(evaluate(canonical(expr), env)) == value
    assert sum(factor * int(evaluate(term, env)) for factor, term in linear_terms(expr)) == value


@given(EXPRS, EXPRS)
def test_the_canonical_form_ignores_how_a_sum_was_built(a: Expr, b: Expr) -> None:
    assert canonical((a + b) * a) == canonical(a * a + a * b)
    assert canonical(a - b) == canonical(-(b - a))


@given(EXPRS, EXPRS)
def test_a_product_divides_exactly_by_its_factors(a: Expr, b: Expr) -> None:
    if canonical(b) == const(0):
        assert exact_quotient(a * b, b) is None
    else:
        assert exact_quotient(a * b, b) == canonical(a)


@pytest.mark.parametrize(
    ("dividend", "divisor", "quotient"),
    [
        (S * T * 768, T * 12, S * 64),
        (S * 768 + 768, as_expr(768), S + 1),
        (S * 64, as_expr(12), None),
        (S * 64 + 1, S, None),
        (S, T, None),
        (S * S + S * T * 2 + T * T, S + T, S + T),
    ],
)
def test_quotients(dividend: Expr, divisor: Expr, quotient: Expr | None) -> None:
    assert exact_quotient(dividend, divisor) == quotient
