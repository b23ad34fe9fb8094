"""Narrow types: every code decodes, and every number encodes, as ml_dtypes says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from core.tests.frontend.models import model, node
from tilewright.frontend import load
from tilewright.frontend.legalize.narrow import FORMATS, INTEGERS, decode, encode
from tilewright.interpret.evaluate import evaluate
from tilewright.interpret.tensor import interpret
from tilewright.ir import dtypes
from tilewright.ir.expr import Var

RNG = np.random.default_rng(0)


def numbers(dtype: str) -> np.ndarray:  # type: ignore[type-arg]
    """Numbers of all sizes, every code's value, the middles between neighbours and their neighbours, and specials."""
    values = every_code(dtype).astype(np.float64)
    values = np.unique(values[np.isfinite(values)])
    middles = (values[1:] + values[:-1]) / 2
    near = [np.nextafter(middles.astype(np.float32), np.float32(x)) for x in (-np.inf, np.inf)]
    bits = RNG.integers(0, 1 << 32, 20000, np.uint32).view(np.float32)
    scaled = RNG.standard_normal(20000) * np.exp(RNG.uniform(-20, 20, 20000))
    special = [0.0, -0.0, np.inf, -np.inf, np.nan]
    with np.errstate(all="ignore"):
        return np.concatenate([x.astype(np.float32) for x in (values, middles, *near, bits, scaled, np.array(special))])


def every_code(dtype: str) -> np.ndarray:  # type: ignore[type-arg]
    count = 1 << INTEGERS[dtype] if dtype in INTEGERS else 16 if dtype == "float4e2m1" else 256
    return np.arange(count, dtype=np.uint8).view(dtypes.to_numpy(dtype))


def same(found: np.ndarray, wanted: np.ndarray) -> None:  # type: ignore[type-arg]
    """Equal values, with the signs of zeros, and NaN in the same places."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    assert found.dtype == wanted.dtype
    assert np.array_equal(np.isnan(a), np.isnan(b))
    there = ~np.isnan(a)
    assert np.array_equal(a[there], b[there])
    assert np.array_equal(np.signbit(a[there]), np.signbit(b[there]))


@pytest.mark.parametrize("dtype", dtypes.NARROW)
def test_every_code_decodes(dtype: str) -> None:
    codes = every_code(dtype)
    found = evaluate(decode(Var("x", dtype)), {"x": codes})
    same(found, codes.astype(np.int32 if dtype in INTEGERS else np.float32))


@pytest.mark.parametrize("wide", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("dtype", FORMATS)
def test_numbers_are_rounded_to_nearest_even(dtype: str, saturate: bool, wide: str) -> None:
    with np.errstate(all="ignore"):
        given = numbers(dtype).astype(dtypes.to_numpy(wide))
        target = dtypes.to_numpy(dtype)
        if saturate and dtype != "float4e2m1":
            wanted = numpy_helper.saturate_cast(given.astype(np.float64), target)
        else:
            wanted = given.astype(np.float64).astype(target)
        found = evaluate(encode(Var("x", wide), dtype, saturate), {"x": given})
    if dtype == "float4e2m1":  # it has no NaN, what becomes of one is nobody's promise
        with np.errstate(all="ignore"):
            found, wanted = (x[~np.isnan(given.astype(np.float64))] for x in (found, wanted))
    same(found, wanted)


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [True, False])
def test_scales_are_rounded_as_asked(mode: str, saturate: bool) -> None:
    given = numbers("float8e8m0")
    found = evaluate(encode(Var("x", "float32"), "float8e8m0", saturate, mode), {"x": given})  # type: ignore[arg-type]
    wanted = numpy_helper.to_float8e8m0(given, saturate, mode)
    assert np.array_equal(found.view(np.uint8), wanted.view(np.uint8))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_narrow_integers_keep_their_low_bits(dtype: str) -> None:
    given = np.arange(-40, 40, dtype=np.int32)
    found = evaluate(encode(Var("x", "int32"), dtype), {"x": given})
    same(found, given.astype(dtypes.to_numpy(dtype)))


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("dtype", ["int4", "uint2", "float4e2m1", "float8e4m3fn"])
def test_packed_weights_are_taken_apart(dtype: str, external: bool, tmp_path: Path) -> None:
    data = RNG.integers(0, 4, (3, 5)).astype(np.uint8).view(dtypes.to_numpy(dtype))
    nodes = [node("Cast", ["w"], ["c"], to=1), node("Mul", ["c", "x"])]
    made = model(nodes, {"x": ("float32", [3, 5])}, weights={"w": data}, opset=25)
    path = tmp_path / "m.onnx"
    onnx.save(made, path, save_as_external_data=external, size_threshold=0)
    x = RNG.standard_normal((3, 5)).astype(np.float32)
    (found,) = interpret(load(path), [x])
    assert np.array_equal(found, data.astype(np.float32) * x)
