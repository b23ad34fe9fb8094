"""Flat addresses."""

from __future__ import annotations

import itertools

import pytest

from tilewright.interpret.evaluate import evaluate
from tilewright.ir.expr import Expr, Var
from tilewright_backends.lower.flat import join_digits

X, Y = Var("x"), Var("y")


@pytest.mark.parametrize(
    ("expr", "joined"),
    [
        (X // 16 * 16 + X % 16, X),
        (Y * 4096 + X // 64 * 64 + X % 64, Y * 4096 + X),
        (X // 64 % 64 * 64 + X // 4096 * 4096 + X % 64, X),
        (X // 16 % 8 * 16 + X % 16, X % 128),
        (X // 16 * 32 + X % 16, None),
        (X // 16 * 16 + Y % 16, None),
        (X // 8 * 16 + X % 16, None),
    ],
)
def test_digits_are_joined_where_they_are_neighbours(expr: Expr, joined: Expr | None) -> None:
    found = join_digits(expr)
    if joined is None:
        assert found == expr
    for x, y in itertools.product((0, 1, 15, 16, 63, 64, 4095, 4096, 70000), (0, 3, 17)):
        at = {"x": x, "y": y}
        assert evaluate(found, at) == evaluate(expr, at)
        if joined is not None:
            assert evaluate(found, at) == evaluate(joined, at)
    if joined is not None:
        assert "floordiv" not in str(found)
