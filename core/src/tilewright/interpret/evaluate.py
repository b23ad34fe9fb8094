"""The meaning of scalar expressions, vectorised over NumPy arrays. Both interpreters use it.

An operator on float16 or bfloat16 is computed in float32 and rounded to its own dtype afterwards, one operation
at a time. Integers wrap. Nothing here warns or raises on a value: divisions by zero and casts out of range give
what NumPy gives, because the untaken side of a `select` is evaluated as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.errors import InternalError
from tilewright.ir import dtypes
from tilewright.ir.expr import Apply, Const, Expr, Load, Var

Array = npt.NDArray[Any]


def evaluate(expr: Expr, env: Mapping[str, Any], loads: Sequence[Array] | Mapping[int, Array] = ()) -> Array:
    """The value of `expr` at every point of the arrays that its leaves name.

    Args:
        env: an array (or a Python number) for each variable; the arrays broadcast against each other.
        loads: an array of the slot's dtype for each `Load`, by slot number.

    Returns:
        an array of `expr.dtype`; its shape is the broadcast one of the leaves that `expr` uses (a literal: ()).

    Raises:
        InternalError: a variable or slot is missing, or its array has another dtype than the leaf declares.
    """
    with np.errstate(all="ignore"):
        return _visit(expr, env, loads, {})


def evaluate_all(
    exprs: Sequence[Expr], env: Mapping[str, Any], loads: Sequence[Array] | Mapping[int, Array] = ()
) -> tuple[Array, ...]:
    """`evaluate` of several expressions that share sub-expressions, each computed once."""
    done: dict[Expr, Array] = {}
    with np.errstate(all="ignore"):
        return tuple(_visit(x, env, loads, done) for x in exprs)


def _visit(
    node: Expr,
    env: Mapping[str, Any],
    loads: Sequence[Array] | Mapping[int, Array],
    done: dict[Expr, Array],
) -> Array:
    found = done.get(node)
    if found is not None:
        return found
    if isinstance(node, Apply):
        args = [_visit(x, env, loads, done) for x in node.args]
        result = np.asarray(apply_op(node.op, args, node.dtype))
    elif isinstance(node, Const):
        result = np.asarray(node.value, dtypes.to_numpy(node.dtype))
    elif isinstance(node, Var):
        if node.name not in env:
            raise InternalError(f"Evaluation needs a value of {node.name!r}; known are {sorted(env)}.")
        result = _leaf(env[node.name], node.dtype, f"variable {node.name!r}")
    elif isinstance(node, Load):
        try:
            given = loads[node.slot]
        except (IndexError, KeyError):
            raise InternalError(f"Evaluation needs read {node.slot}; {len(loads)} are given.") from None
        result = _leaf(given, node.dtype, f"read {node.slot}")
    else:
        raise InternalError(f"{type(node).__name__} is not a node of the expression language.")
    done[node] = result
    return result


def _leaf(given: Any, dtype: str, what: str) -> Array:
    wanted = dtypes.to_numpy(dtype)
    if isinstance(given, (bool, int, float)):
        return np.asarray(given, wanted)
    array = np.asarray(given)
    if array.dtype != wanted:
        raise InternalError(f"Evaluation needs {what} as {dtype}, found an array of {array.dtype}.")
    return array


def apply_op(op: str, args: Sequence[Array], dtype: str) -> Array:
    """One operator of `expr.OPS` on arrays; `dtype` is that of the result."""
    if op == "cast":
        return _cast(args[0], dtype)
    if op == "bitcast":
        return np.ascontiguousarray(args[0]).view(dtypes.to_numpy(dtype)).reshape(args[0].shape)
    if op == "select":
        return np.where(args[0], args[1], args[2])
    given = args[0].dtype
    if dtypes.from_numpy(given) in ("float16", "bfloat16"):
        wide = _FUNCTIONS[op](*(x.astype(np.float32) for x in args))
        return wide if dtype == "bool" else wide.astype(given)
    result = _FUNCTIONS[op](*args)
    return result if dtype == "bool" or result.dtype == given else result.astype(given)


def _cast(x: Array, dtype: str) -> Array:
    target = dtypes.to_numpy(dtype)
    if dtype == "bool":
        return np.not_equal(x, np.zeros((), x.dtype))
    if x.dtype == dtypes.to_numpy("bfloat16") and dtypes.is_integer(dtype):
        return x.astype(np.float32).astype(target)
    return x.astype(target)


def _truncdiv(a: Array, b: Array) -> Array:
    quotient = np.floor_divide(a, b)
    inexact = (quotient * b != a) & (b != 0)
    return np.where(inexact & ((a < 0) != (b < 0)), quotient + quotient.dtype.type(1), quotient)


def _power(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.power(a, b)
    if a.dtype.kind == "u":
        return np.power(a, b)
    # A negative exponent gives the truncated reciprocal: ±1 for ±1, otherwise 0.
    one = a.dtype.type(1)
    positive = np.power(a, np.maximum(b, a.dtype.type(0)))
    odd = np.where((b & one) == one, a, one)
    reciprocal = np.where(a == one, one, np.where(a == -one, odd, a.dtype.type(0)))
    return np.where(b < 0, reciprocal, positive)


def _shift(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    def shifted(a: Array, b: Array) -> Array:
        width = a.dtype.itemsize * 8
        inside = (b >= 0) & (b < width)
        amount = np.where(inside, b, b.dtype.type(0))
        return np.where(inside, function(a, amount), a.dtype.type(0))

    return shifted


_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: Array) -> Array:
    """The error function, computed in float64 and rounded to the dtype of `x`."""
    return np.asarray(_erf(x.astype(np.float64)), np.float64).astype(x.dtype)


_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "floordiv": np.floor_divide,
    "floormod": np.mod,
    "truncdiv": _truncdiv,
    "truncmod": np.fmod,
    "pow": _power,
    "min": np.minimum,
    "max": np.maximum,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: np.divide(x.dtype.type(1), np.sqrt(x)),
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "erf": erf,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "not": np.logical_not,
    "bitand": np.bitwise_and,
    "bitor": np.bitwise_or,
    "bitxor": np.bitwise_xor,
    "bitnot": np.bitwise_not,
    "shl": _shift(np.left_shift),
    "shr": _shift(np.right_shift),
}
