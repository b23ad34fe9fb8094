"""The order of a selection, which is total: equal elements by their position, NaN above every number."""

from __future__ import annotations

from tvm import tirx

from tilewright.ir import dtypes
from tilewright_backends.lower.types import Prim, differ

Element = tuple[Prim, Prim]
"""A value (carried) and its position in the row."""


def beats(a: Element, b: Element, dtype: str, largest: bool) -> Prim:
    """Whether `a` stands before `b` in the result.

    Args:
        dtype: IR dtype of the values.
        largest: whether great values come first.
    """
    first, second = (a[0], b[0]) if largest else (b[0], a[0])
    better, worse = greater(first, second, dtype), greater(second, first, dtype)
    return tirx.Or(better, tirx.And(tirx.Not(worse), tirx.LT(a[1], b[1])))


def greater(x: Prim, y: Prim, dtype: str) -> Prim:
    """Whether `x` is above `y`."""
    if dtype == "bool":
        return tirx.And(x, tirx.Not(y))
    if not dtypes.is_float(dtype):
        return tirx.LT(y, x)
    return tirx.Or(tirx.LT(y, x), tirx.And(differ(x, x), tirx.EQ(y, y)))
