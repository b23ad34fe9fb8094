"""Bounds hold every value, and simplification keeps every value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from core.tests.ir.strategies import BOUNDS, index_exprs, points
from tilewright.interpret.evaluate import evaluate
from tilewright.ir.bounds import INFINITY, Interval, bounds_of, linear_terms, simplify
from tilewright.ir.expr import Apply, Expr, Var, apply, cast, const


@given(index_exprs())
def test_bounds_hold_every_value(expr: Expr) -> None:
    found = bounds_of(expr, BOUNDS)
    at = evaluate(expr, points())
    assert found.low <= at.min()
    assert at.max() <= found.high


@given(index_exprs(dtype="int8"))
def test_bounds_of_narrow_integers_allow_for_wrapping(expr: Expr) -> None:
    found = bounds_of(expr, BOUNDS)
    at = evaluate(expr, points(dtype="int8"))
    assert found.low <= at.min()
    assert at.max() <= found.high


@given(index_exprs())
def test_simplification_keeps_values(expr: Expr) -> None:
    np.testing.assert_array_equal(
        np.broadcast_to(evaluate(simplify(expr, BOUNDS), points()), 68), np.broadcast_to(evaluate(expr, points()), 68)
    )


@given(index_exprs(dtype="int8"))
def test_simplification_of_narrow_integers_keeps_values(expr: Expr) -> None:
    at = points(dtype="int8")
    np.testing.assert_array_equal(
        np.broadcast_to(evaluate(simplify(expr, BOUNDS), at), 68), np.broadcast_to(evaluate(expr, at), 68)
    )


@given(index_exprs())
def test_linear_terms_add_up(expr: Expr) -> None:
    total: Expr = const(0)
    for factor, term in linear_terms(expr):
        total = Apply("add", (total, Apply("mul", (term, const(factor)), "int64")), "int64")
    np.testing.assert_array_equal(
        np.broadcast_to(evaluate(total, points()), 68), np.broadcast_to(evaluate(expr, points()), 68)
    )


def test_split_of_a_joined_axis_is_exact() -> None:
    h, d = Var("h"), Var("d")
    bounds = {"h": Interval(0, 11), "d": Interval(0, 63)}
    assert simplify((h * 64 + d) // 64, bounds) == h
    assert simplify((h * 64 + d) % 64, bounds) == d


@pytest.mark.parametrize("value", [0.5, float("inf"), float("nan")])
def test_floats_are_unbounded(value: float) -> None:
    assert bounds_of(const(value, "float32"), {}) == Interval(-INFINITY, INFINITY)
    assert bounds_of(cast(apply("mul", Var("f", "float32"), value), "int64"), {}).high >= INFINITY
