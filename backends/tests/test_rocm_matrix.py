"""Products on the matrix units of AMD GPUs, thread for thread with emulated lane maps, beside float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from tilewright.compiler import device_of, plan_module, recipes_of
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.frontend import load
from tilewright.plugins.manager import Registry
from tilewright.recipes import Match
from tilewright.testing import conformance
from tilewright.testing.cases import case, node
from tilewright.views.subject import subject_of

DEVICES = ("gfx90a", "gfx942", "gfx1100", "gfx1201")
TYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
ROWS, DEPTH, COLUMNS = 39, 72, 88


def settings_for(device: str) -> Settings:
    registry = Registry()
    registry.load()
    return bind(load_config({"target": f"rocm:{device}"}), registry)


def product(dtype: str, turned: bool, constant: bool) -> tuple[Any, Any]:
    """A module of relu(rows · columns + bias), and its inputs.

    Args:
        turned: whether the columns' operand has the reduction along memory.
        constant: whether the columns' operand is a weight.
    """
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((ROWS, DEPTH)).astype(TYPES[dtype])
    columns = rng.standard_normal((COLUMNS, DEPTH) if turned else (DEPTH, COLUMNS)).astype(TYPES[dtype])
    bias = rng.standard_normal(COLUMNS).astype(TYPES[dtype])
    nodes = [node("Transpose", "b", "t", perm=[1, 0])] if turned else []
    nodes += [node("MatMul", f"a {'t' if turned else 'b'}", "p"), node("Add", "p c", "q"), node("Relu", "q", "y")]
    feeds, weights = {"a": rows, "b": columns, "c": bias}, {}
    if constant:
        weights["b"] = feeds.pop("b")
    return load(case("product", nodes, feeds, weights=weights).model), (rows, columns, bias)


def matched(module: Any, settings: Settings) -> tuple[Any, Match]:
    """The group of the product, and how the recipe sees it."""
    program = plan_module(module, settings).program
    for kernel in program.kernels.values():
        found = recipes_of(settings)["rocm.matrix"].see(
            subject_of(kernel.group, program.constants),  # type: ignore[arg-type]
            device_of(settings),
        )
        if found is not None:
            return kernel.group, found
    raise AssertionError("no kernel is a product for the matrix units")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("device", ["gfx90a", "gfx1100", "gfx1201"])
def test_products_agree_with_float64(device: str, dtype: str) -> None:
    """Of constants along the reduction in float16, of inputs along the columns in bfloat16."""
    check(device, dtype, constant=dtype == "float16", turned=dtype == "float16")


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    "dtype",
    [pytest.param("float16", marks=pytest.mark.slow(every=2)), pytest.param("bfloat16", marks=pytest.mark.full)],
)
@pytest.mark.parametrize("device", DEVICES)
def test_products_of_any_layout_agree_with_float64(device: str, dtype: str, constant: bool, turned: bool) -> None:
    check(device, dtype, constant, turned)


def check(device: str, dtype: str, constant: bool, turned: bool) -> None:
    """Sampled tilings on the emulator."""
    settings = settings_for(device)
    module, (rows, columns, bias) = product(dtype, turned, constant)
    group, match = matched(module, settings)
    choices = conformance.sample(match, 2, np.random.default_rng(5))
    program = conformance.copies(module, [(group, choice) for choice in choices], settings)
    assert {k.choice.recipe for k in program.kernels.values()} >= {"rocm.matrix"}
    found = emulate(program, settings, [rows, bias] if constant else [rows, columns, bias])
    wide = [x.astype(np.float64) for x in (rows, columns, bias)]
    wanted = np.maximum(wide[0] @ (wide[1].T if turned else wide[1]) + wide[2], 0)
    unit = float(ml_dtypes.finfo(TYPES[dtype]).eps)
    # The product and the sum are rounded to the type, each by half a unit at most; the product is summed in float32.
    bound = unit * (np.abs(wide[0] @ (wide[1].T if turned else wide[1])) + np.abs(wanted)) + 1e-4
    assert len(found) == len(choices)
    for array in found:
        assert (np.abs(array.astype(np.float64) - wanted) <= bound).all()
