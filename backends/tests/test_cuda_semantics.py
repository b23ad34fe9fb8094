"""Operators of the expression language in CUDA code against their meaning, at the awkward values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from backends.tests.cuda_on_cpu.emulator import Emulated
from tilewright.interpret.evaluate import evaluate
from tilewright.ir import dtypes
from tilewright.ir.expr import OPS, Expr, Load, Var, apply, cast, const
from tilewright.ir.ops import Access, Axis, TensorOp, Write, value
from tilewright.views.kernel import spec_of
from tilewright_backends.build.cuda.source import DeviceKernel, KernelShell
from tilewright_backends.emit.gpu import map as element_wise
from tilewright_backends.lower.flat import flatten

FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 3.0, 1e-3, -7.25, 40.0, np.inf, -np.inf, np.nan)
INTEGERS = (0, 1, 2, 3, -1, -2, -7, 8, 31, 100, -100)
KINDS = {
    **dict.fromkeys(("float32", "float64", "float16", "bfloat16"), "f"),
    **dict.fromkeys(("int32", "int64", "uint8"), "i"),
    "bool": "b",
}
TOLERANCE = {"float32": 4e-6, "float64": 1e-14, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Relative. A half result is a rounded float32 one, which may fall on the other side of a tie: one unit."""


def operands(dtype: str, count: int) -> list[np.ndarray]:
    """All combinations of the awkward values."""
    if dtype == "bool":
        values: tuple[object, ...] = (False, True)
    elif dtypes.is_float(dtype):
        values = FLOATS
    else:
        low, high = dtypes.integer_range(dtype)
        values = (*(x for x in INTEGERS if low <= x <= high), low, high)
    grid = list(itertools.product(values, repeat=count))
    with np.errstate(all="ignore"):
        return [np.asarray([row[i] for row in grid]).astype(dtypes.to_numpy(dtype)) for i in range(count)]


def kernel_of(name: str, body: Expr, given: list[np.ndarray], dtype: str) -> DeviceKernel:
    """A kernel that computes `body` at every element of its operands."""
    size = len(given[0])
    at = (Var("i"),)
    reads = tuple(Access(value(f"x{i}", dtypes.from_numpy(x.dtype), (size,)), at) for i, x in enumerate(given))
    out = value("out", dtype, (size,))
    op = TensorOp(name, (Axis("i", const(size)),), reads, (body,), (Write(out, at),))
    shell = KernelShell(name, [*(r.value for r in reads), out], 64, -(-size // 64))
    element_wise.statements(shell.body, flatten(spec_of(op)), 1)
    return shell.finish("sm_90a")


def cases() -> list[tuple[str, Expr, list[np.ndarray]]]:
    found: list[tuple[str, Expr, list[np.ndarray]]] = []
    for op, info in OPS.items():
        if info.result == "cast":
            continue
        for dtype, kind in KINDS.items():
            if kind not in info.kinds:
                continue
            if op == "select":
                given = [operands("bool", 1)[0], *(x[:2] for x in operands(dtype, 2))]
                body = apply(op, Load(0, "bool"), Load(1, dtype), Load(2, dtype))
            else:
                given = operands(dtype, info.arity)
                body = apply(op, *(Load(i, dtype) for i in range(info.arity)))
            found.append((f"{op}_{dtype}", body, given))
    for given_dtype, dtype in itertools.permutations(("float32", "float16", "bfloat16", "int32", "int64", "bool"), 2):
        small = operands(given_dtype, 1)[0]
        if dtypes.is_float(given_dtype) and not dtypes.is_float(dtype):
            small = small[np.isfinite(small.astype(np.float64))]
        found.append((f"cast_{given_dtype}_{dtype}", cast(Load(0, given_dtype), dtype), [small]))
    return found


def same(name: str, found: np.ndarray, wanted: np.ndarray, dtype: str) -> None:
    if not dtypes.is_float(dtype):
        np.testing.assert_array_equal(found, wanted, name)
        return
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b), name)
    np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=1e-37 if dtype != "float16" else 1e-7, err_msg=name)


def test_every_operator_means_what_the_interpreter_says() -> None:
    given = cases()
    kernels = [kernel_of(f"k_{name}", body, arrays, body.dtype) for name, body, arrays in given]
    emulated = Emulated(kernels)
    for name, body, arrays in given:
        out = np.zeros(len(arrays[0]), dtypes.to_numpy(body.dtype))
        emulated.run(f"k_{name}", [*arrays, out])
        with np.errstate(all="ignore"):
            wanted = np.asarray(evaluate(body, {}, arrays))
        same(name, out, np.broadcast_to(wanted, out.shape), body.dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_division_and_roots_are_correctly_rounded(dtype: str) -> None:
    """No fast approximations: the results are those of IEEE arithmetic."""
    rng = np.random.default_rng(0)
    x = np.abs(rng.standard_normal(500)).astype(dtypes.to_numpy(dtype))
    y = (np.abs(rng.standard_normal(500)) + 0.1).astype(dtypes.to_numpy(dtype))
    body = apply("sqrt", apply("div", Load(0, dtype), Load(1, dtype)))
    out = np.zeros_like(x)
    Emulated([kernel_of("k", body, [x, y], dtype)]).run("k", [x, y, out])
    np.testing.assert_array_equal(out, np.sqrt(x / y))
