"""Integer expressions of indices and guards, in 32 bits where that is safe."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir import dtypes
from tilewright.ir.bounds import Bounds, Interval, bounds_of, linear_terms
from tilewright.ir.expr import Apply, Const, Expr, Load, Var, walk
from tilewright_backends.lower.types import Prim, broadcast, convert, element, lanes_of, literal, matched

_INT32 = (1 << 31) - 1
_BINARY = {
    "add": tirx.Add,
    "sub": tirx.Sub,
    "mul": tirx.Mul,
    "floordiv": tirx.Div,  # of numbers that are not negative: see `_division`
    "floormod": tirx.Mod,
    "min": tirx.Min,
    "max": tirx.Max,
    "lt": tirx.LT,
    "le": tirx.LE,
    "eq": tirx.EQ,
    "ne": tirx.NE,
    "and": tirx.And,
    "or": tirx.Or,
}


def fits_int32(interval: Interval) -> bool:
    """Whether every number of the interval is one of 32 bits."""
    return interval.low >= -_INT32 and interval.high <= _INT32


def is_index(expr: Expr, bounds: Bounds) -> bool:
    """Whether the expression is plain index arithmetic: integer or bool, divisions by positive numbers only."""
    return all(
        not dtypes.is_float(x.dtype) and (not isinstance(x, Apply) or _is_index_op(x, bounds)) for x in walk(expr)
    )


def _is_index_op(node: Apply, bounds: Bounds) -> bool:
    if node.op in ("floordiv", "floormod"):
        return bounds_of(node.args[1], bounds).low > 0
    return node.op in _BINARY or node.op in ("not", "neg", "select")


def index_dtype(expr: Expr, bounds: Bounds) -> str:
    """int32 when every part of `expr` provably fits, otherwise int64."""
    for node in walk(expr):
        if isinstance(node, Load) and node.dtype in ("int64", "uint64", "uint32"):
            return "int64"
        if node.dtype != "bool" and not isinstance(node, Load) and not fits_int32(bounds_of(node, bounds)):
            return "int64"
    return "int32"


def lower_index(
    expr: Expr, env: Mapping[str, Prim], bounds: Bounds, loads: Mapping[int, Prim], dtype: str = ""
) -> Prim:
    """The TIR value of an integer or boolean expression.

    Args:
        env: value of each variable; a vector makes the result a vector.
        loads: value of each read that the expression uses.
        dtype: int32 or int64 to force the width of integers.
    """
    width = dtype or index_dtype(expr, bounds)
    done: dict[Expr, Prim] = {}

    def visit(node: Expr) -> Prim:
        found = done.get(node)
        if found is None:
            found = done[node] = _lower(node)
        return found

    def _lower(node: Expr) -> Prim:
        if isinstance(node, Const):
            return literal(node.value, "bool" if node.dtype == "bool" else width)
        if isinstance(node, Var):
            value = env[node.name]
            return value if node.dtype == "bool" else convert(value, width)
        if isinstance(node, Load):
            return loads[node.slot] if node.dtype == "bool" else convert(loads[node.slot], width)
        assert isinstance(node, Apply)
        if node.op in ("add", "sub"):
            return _sum(node)
        args = matched(*(visit(x) for x in node.args))
        if node.op == "not":
            return tirx.Not(args[0])
        if node.op == "neg":
            return tirx.Sub(literal(0, width, lanes_of(args[0])), args[0])
        if node.op == "select":
            return tirx.Select(*args)
        if node.op in ("floordiv", "floormod"):
            return _division(node, args[0], args[1], bounds_of(node.args[0], bounds).low < 0)
        make = _BINARY.get(node.op)
        if make is None:
            raise InternalError(f"an index may not use {node.op!r}: {expr!r}.")
        return make(*args)

    def _sum(node: Expr) -> Prim:
        """Sums in one piece, scalars before vectors, so that a lane appears as one ramp with a scalar base."""
        scalar: Prim = None
        vector: Prim = None
        for factor, term in linear_terms(node):
            value = visit(term)
            lanes = lanes_of(value)
            if factor != 1:
                value = literal(factor, width) if isinstance(term, Const) else _times(value, factor, width)
            if lanes == 1:
                scalar = value if scalar is None else tirx.Add(scalar, value)
            else:
                vector = value if vector is None else tirx.Add(vector, value)
        if vector is None:
            return literal(0, width) if scalar is None else scalar
        if scalar is None:
            return vector
        if isinstance(vector, tirx.Ramp):
            return tirx.Ramp(tirx.Add(scalar, vector.base), vector.stride, lanes_of(vector))
        return tirx.Add(broadcast(scalar, lanes_of(vector)), vector)

    return visit(expr)


def _times(value: Prim, factor: int, width: str) -> Prim:
    if isinstance(value, tirx.Ramp):
        step = literal(factor, width)
        return tirx.Ramp(tirx.Mul(value.base, step), tirx.Mul(value.stride, step), lanes_of(value))
    return tirx.Mul(value, literal(factor, width, lanes_of(value)))


def _division(node: Apply, x: Prim, y: Prim, negative: bool) -> Prim:
    """Flooring division by a positive number, from the truncating one."""
    quotient, rest = tirx.Div(x, y), tirx.Mod(x, y)
    if not negative:
        return quotient if node.op == "floordiv" else rest
    lanes, dtype = lanes_of(x), element(x)
    below = tirx.LT(rest, literal(0, dtype, lanes))
    if node.op == "floordiv":
        return tirx.Sub(quotient, tirx.Select(below, literal(1, dtype, lanes), literal(0, dtype, lanes)))
    return tirx.Select(below, tirx.Add(rest, y), rest)
