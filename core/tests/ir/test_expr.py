"""Equality of expressions is equality of structure, at a cost that sharing does not multiply."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable

import pytest
from hypothesis import given

from core.tests.ir.strategies import any_expr
from tilewright.ir.expr import Apply, Const, Expr, Load, Var, const


def shared(depth: int, leaf: Expr) -> Expr:
    """An expression whose tree has 2**depth leaves and whose graph has `depth` nodes."""
    expr = leaf
    for _ in range(depth):
        expr = Apply("add", (expr, expr), "int64")
    return expr


def test_shared_expressions_that_were_built_twice_compare_at_once() -> None:
    begin = time.process_time()
    assert shared(200, Var("i")) == shared(200, Var("i"))
    assert shared(200, Var("i")) != shared(200, Var("j"))
    assert shared(200, Var("i")) != shared(199, Var("i"))
    assert len({shared(200, Var("i")), shared(200, Var("i")), shared(200, const(1))}) == 2
    assert time.process_time() - begin < 1


def test_equality_does_not_rest_on_the_hash() -> None:
    """Two expressions with one hash, and what they differ in lies deep and is met after a shared part."""
    left, right = (Apply("mul", (shared(20, Var("i")), shared(20, leaf)), "int64") for leaf in (Var("i"), const(3)))
    assert left != right
    for expr in (left, right):
        object.__setattr__(expr, "_attrs_cached_hash", 1)
        object.__setattr__(expr.args[1], "_attrs_cached_hash", 1)
    assert hash(left) == hash(right)
    assert left != right


@given(any_expr)
def test_a_copy_is_equal(expr: Expr) -> None:
    copy = pickle.loads(pickle.dumps(expr))
    assert copy == expr
    assert hash(copy) == hash(expr)


@pytest.mark.parametrize(
    "change",
    [
        lambda e: Apply("sub", e.args, e.dtype),
        lambda e: Apply(e.op, e.args, "int32"),
        lambda e: Apply(e.op, (e.args[1], e.args[0]), e.dtype),
        lambda e: Apply(e.op, (e.args[0],), e.dtype),
        lambda e: Apply(e.op, (e.args[0], Var("j")), e.dtype),
        lambda e: Apply(e.op, (Load(0, "int64"), e.args[1]), e.dtype),
        lambda e: "add",
    ],
)
def test_what_differs_anywhere_is_not_equal(change: Callable[[Apply], object]) -> None:
    expr = Apply("add", (Var("i"), const(1)), "int64")
    assert expr != change(expr)


def test_literals_compare_by_their_bits() -> None:
    zero, minus, nan = (Const(x, "float32") for x in (0.0, -0.0, float("nan")))
    assert Apply("neg", (nan,), "float32") == Apply("neg", (Const(float("nan"), "float32"),), "float32")
    assert Apply("neg", (zero,), "float32") != Apply("neg", (minus,), "float32")
