"""The order in which TopK ranks elements. It is total: of equal elements the one with the lower position is better."""

from __future__ import annotations

from tvm import tirx

from tilewright.ir import dtypes
from tilewright_backends.lower.types import Prim, differ

Element = tuple[Prim, Prim]
"""A value (carried) and its position in the row."""


def before(a: Element, b: Element, dtype: str, largest: bool) -> Prim:
    """Whether `a` stands before `b` in the result. NaN is greater than every number."""
    first, second = (a[0], b[0]) if largest else (b[0], a[0])
    better, worse = _greater(first, second, dtype), _greater(second, first, dtype)
    return tirx.Or(better, tirx.And(tirx.Not(worse), tirx.LT(a[1], b[1])))


def _greater(x: Prim, y: Prim, dtype: str) -> Prim:
    if not dtypes.is_float(dtype):
        return tirx.LT(y, x)
    return tirx.Or(tirx.LT(y, x), tirx.And(differ(x, x), tirx.EQ(y, y)))
