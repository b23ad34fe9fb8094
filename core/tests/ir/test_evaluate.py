"""The vectorised evaluator against Python's integers and `math`, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given

from core.tests.ir.strategies import LOADS, VARIABLES, any_expr
from tilewright.errors import InternalError
from tilewright.interpret.evaluate import evaluate, evaluate_all
from tilewright.ir import dtypes
from tilewright.ir.expr import OPS, Apply, Expr, Load, Var, apply, bitcast, cast, const


def wrap(value: int, dtype: str) -> int:
    low, high = dtypes.integer_range(dtype)
    return (value - low) % (high - low + 1) + low


def _truncate(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


INTEGER: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "floormod": lambda a, b: a % b,
    "truncdiv": _truncate,
    "truncmod": lambda a, b: a - b * _truncate(a, b),
    "pow": lambda a, b: a**b if b >= 0 else {1: 1, -1: 1 - 2 * (b % 2)}.get(a, 0),
    "min": min,
    "max": max,
    "neg": lambda a: -a,
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "bitand": lambda a, b: a & b,
    "bitor": lambda a, b: a | b,
    "bitxor": lambda a, b: a ^ b,
    "bitnot": lambda a: ~a,
}


@pytest.mark.parametrize("dtype", dtypes.INTEGERS)
@pytest.mark.parametrize("op", INTEGER)
def test_integers_wrap_as_in_twos_complement(op: str, dtype: str) -> None:
    low, high = dtypes.integer_range(dtype)
    edge = [x for x in (low, low + 1, -7, -1, 0, 1, 2, 3, 5, 100, high - 1, high) if low <= x <= high]
    arity = OPS[op].arity
    rows = [(a, b) for a in edge for b in edge][: None if arity == 2 else len(edge) ** 2]
    if op in ("floordiv", "floormod", "truncdiv", "truncmod"):
        rows = [(a, b) for a, b in rows if b != 0 and not (a == low and b == -1)]
    if op == "pow":
        rows = [(a, b) for a, b in rows if b < 64]
    names = ["p", "q"][:arity]
    env = {n: np.array([r[i] for r in rows], dtypes.to_numpy(dtype)) for i, n in enumerate(names)}
    found = evaluate(apply(op, *(Var(n, dtype) for n in names)), env)
    wanted = [INTEGER[op](*r[:arity]) for r in rows]
    if OPS[op].result != "bool":
        wanted = [wrap(x, dtype) for x in wanted]
    assert found.tolist() == wanted


@pytest.mark.parametrize("dtype", dtypes.INTEGERS)
def test_shifts_by_the_width_or_more_give_zero(dtype: str) -> None:
    width = dtypes.bits(dtype)
    low, high = dtypes.integer_range(dtype)
    for value in (low, -3 if low else 3, 1, high):
        for by in (0, 1, width - 1, width, width + 1, high):
            env = {"p": np.array(value, dtypes.to_numpy(dtype)), "q": np.array(by, dtypes.to_numpy(dtype))}
            left = evaluate(apply("shl", Var("p", dtype), Var("q", dtype)), env)
            right = evaluate(apply("shr", Var("p", dtype), Var("q", dtype)), env)
            assert int(left) == (wrap(value << by, dtype) if by < width else 0)
            assert int(right) == (value >> by if by < width else 0)


FLOAT = {
    "exp": math.exp, "log": math.log, "sqrt": math.sqrt, "sin": math.sin, "cos": math.cos, "tan": math.tan,
    "asin": math.asin, "acos": math.acos, "atan": math.atan, "sinh": math.sinh, "cosh": math.cosh,
    "tanh": math.tanh, "asinh": math.asinh, "atanh": math.atanh, "erf": math.erf, "floor": math.floor,
    "ceil": math.ceil, "round": round, "trunc": math.trunc, "rsqrt": lambda x: 1 / math.sqrt(x),
    "acosh": lambda x: math.acosh(1 + x), "neg": lambda x: -x, "abs": abs, "sign": lambda x: math.copysign(1, x),
}  # fmt: skip


@pytest.mark.parametrize("dtype", dtypes.FLOATS)
@pytest.mark.parametrize("op", FLOAT)
def test_float_functions(op: str, dtype: str) -> None:
    values = np.array([0.125, 0.25, 0.5, 0.75, 0.9375], dtypes.to_numpy(dtype))
    variable = Var("v", dtype)
    found = evaluate(apply(op, variable + 1.0 if op == "acosh" else variable), {"v": values})
    wanted = np.array([FLOAT[op](float(x)) for x in values])
    assert dtypes.from_numpy(found.dtype) == dtype
    tolerance = {"float64": 1e-14, "float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=tolerance)


def test_every_operator_has_a_meaning_on_every_dtype_it_is_defined_on() -> None:
    for op, info in OPS.items():
        if info.result == "cast":
            continue
        for dtype in dtypes.DTYPES:
            kind = "f" if dtypes.is_float(dtype) else "b" if dtype == "bool" else "i"
            if kind in info.kinds:
                args = [Var(f"v{i}", "bool" if op == "select" and i == 0 else dtype) for i in range(info.arity)]
                expr = apply(op, *args)
                env = {x.name: np.ones(3, dtypes.to_numpy(x.dtype)) for x in args}
                assert dtypes.from_numpy(evaluate(expr, env).dtype) == expr.dtype, (op, dtype)


@pytest.mark.parametrize("dtype", dtypes.FLOATS)
@pytest.mark.parametrize("op", ["min", "max"])
def test_minimum_and_maximum_propagate_nan(op: str, dtype: str) -> None:
    nan, one = np.array(math.nan, dtypes.to_numpy(dtype)), np.array(1, dtypes.to_numpy(dtype))
    expr = apply(op, Var("p", dtype), Var("q", dtype))
    assert np.isnan(evaluate(expr, {"p": nan, "q": one}).astype(np.float64))
    assert np.isnan(evaluate(expr, {"p": one, "q": nan}).astype(np.float64))


def test_rounding_is_half_to_even() -> None:
    found = evaluate(apply("round", Var("v", "float32")), {"v": np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)})
    assert found.tolist() == [0, 2, 2, 0, -2]


def test_half_types_round_after_each_operation() -> None:
    big = Var("v", "float16")
    found = evaluate((big + 1.0) - big, {"v": np.array(2048, np.float16)})
    assert float(found) == 0.0, "2049 is not a float16"
    found = evaluate((Var("v", "bfloat16") + 1.0) - 256.0, {"v": np.array(256).astype(dtypes.to_numpy("bfloat16"))})
    assert float(found) == 0.0, "257 is not a bfloat16"


def test_casts_follow_c() -> None:
    at = np.array([-2.7, -0.5, 0.5, 2.7], np.float32)
    assert evaluate(cast(Var("v", "float32"), "int32"), {"v": at}).tolist() == [-2, 0, 0, 2]
    at = np.array([0, -0.0, 0.1, math.nan], np.float32)
    assert evaluate(cast(Var("v", "float32"), "bool"), {"v": at}).tolist() == [False, False, True, True]
    wide = np.array([127, 128, 255, 256], np.int32)
    assert evaluate(cast(Var("v", "int32"), "int8"), {"v": wide}).tolist() == [127, -128, -1, 0]
    assert int(evaluate(bitcast(Var("v", "float32"), "int32"), {"v": 1.0})) == 0x3F800000


@given(any_expr)
def test_any_expression_has_its_dtype_and_never_warns(expr: Expr) -> None:
    random = np.random.default_rng(0)
    env = {n: random.integers(0, 5, (3, 1)).astype(dtypes.to_numpy(d)) for n, d in VARIABLES.items()}
    loads = [random.integers(0, 5, (1, 4)).astype(dtypes.to_numpy(d)) for d in LOADS]
    with np.errstate(all="raise"):
        found = evaluate(expr, env, loads)
    assert dtypes.from_numpy(found.dtype) == expr.dtype
    assert found.shape in ((), (3, 1), (1, 4), (3, 4))


def test_shared_expressions_are_computed_once() -> None:
    expr: Expr = Var("v", "float64")
    for _ in range(200):
        expr = Apply("add", (expr, expr), "float64")
    found = evaluate_all([expr, expr * 0.5], {"v": 1.0})
    assert found[0] == 2.0**200


def test_missing_and_mistyped_leaves_are_named() -> None:
    with pytest.raises(InternalError, match="'v'"):
        evaluate(Var("v"), {})
    with pytest.raises(InternalError, match="read 1"):
        evaluate(Load(1, "float32"), {}, [np.zeros(1, np.float32)])
    with pytest.raises(InternalError, match="float32"):
        evaluate(Load(0, "float32") + const(0.0, "float32"), {}, [np.zeros(1)])
