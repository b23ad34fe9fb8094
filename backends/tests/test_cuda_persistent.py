"""Persistent launches on the emulator: the default scheduler's kernels, merged, beside ONNX Runtime and NumPy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.persistent import MERGES, merged
from backends.tests.test_cuda_conformance import HALF_RECIPES, RECIPES, check
from backends.tests.test_cuda_models import agree, expected
from tilewright.compiler import build_program, plan_model, recipes_of
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.errors import InternalError, VerifyError
from tilewright.ir import dtypes
from tilewright.ir.expr import Var, const
from tilewright.ir.program import (
    UNIT,
    BlockControl,
    Envelope,
    GridControl,
    HostCopy,
    Item,
    Lane,
    Launch,
    Phase,
    Program,
    Signal,
    Task,
    Wait,
)
from tilewright.ir.verify import verify_program
from tilewright.planning.storage import allocate
from tilewright.plugins.manager import Registry
from tilewright.testing import conformance
from tilewright.testing.cases import Case, case, node
from tilewright.testing.corpus import corpus
from tilewright.testing.dimensions import with_dimensions
from tilewright.testing.precision import narrowed
from tilewright_backends.build.cuda.compile import compile_source, find_nvcc
from tilewright_backends.machine_code import machine_code

ALONE = ("cuda.chain_wgmma", "cuda.wgmma_ring")
ARCHITECTURES = ("sm_80", "sm_90a")


def settings_for(device: str) -> Settings:
    registry = Registry()
    registry.load()
    return bind(load_config({"target": f"cuda:{device}"}), registry)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return settings_for("h200")


def branches() -> Case:
    """Two convolutions side by side, pooled, joined, then a product, a normalisation and a softmax."""
    nodes = [
        node("Conv", "x k", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("MaxPool", "r", "p", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Conv", "x k1", "d"),
        node("Sigmoid", "d", "s"),
        node("Concat", "p s", "j", axis=1),
        node("ReduceMean", "j axes", "m", keepdims=0),
        node("MatMul", "m w", "q"),
        node("LayerNormalization", "q g b", "n"),
        node("Softmax", "n", "y", axis=-1),
    ]
    rng = np.random.default_rng(0)
    shapes = {"k": (8, 4, 3, 3), "k1": (8, 4, 1, 1), "w": (16, 40), "g": (40,), "b": (40,)}
    weights = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    weights["axes"] = np.array([2, 3])
    feeds = {"x": rng.standard_normal((3, 4, 9, 9)).astype(np.float32)}
    return case("branches", nodes, feeds, weights, ("y", "j"))


def planned(one: Case, settings: Settings, dtype: str = "float32") -> Program:
    return plan_model(one.model if dtype == "float32" else narrowed(one.model, dtype), settings).program


def inputs_of(program: Program, one: Case) -> list[Any]:
    pairs = zip(program.input_names, program.inputs, strict=True)
    return [one.feeds[key].astype(dtypes.to_numpy(value.dtype)) for key, value in pairs]


@pytest.mark.parametrize("merge", MERGES)
def test_merged_launches_agree_with_onnx_runtime(merge: str, settings: Settings) -> None:
    one = branches()
    program = planned(one, settings)
    made = merged(program, MERGES[merge], 5)
    verify_program(made)
    assert len(program.body) > 5
    assert len(made.body) == 1
    found = emulate(made, settings, inputs_of(program, one), seeds=range(3))
    agree(made.output_names, found, expected(one.model, dict(one.feeds)))


def together(program: Program, settings: Settings, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of a program of which all launches are one, on three units."""
    made = merged(program, MERGES["point to point"], 3)
    verify_program(made)
    return emulate(made, settings, inputs)


def check_members(recipe: str, settings: Settings, samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "run", together)
    dtype = "float16" if recipe in HALF_RECIPES else "float32"
    check(recipe, settings, samples, 3, corpus(dtype), most=samples)


@pytest.mark.parametrize("recipe", ["mma", "simt", "wgmma"])
def test_kernels_are_members(recipe: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    check_members(recipe, settings, 2, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [x for x in RECIPES if f"cuda.{x}" not in ALONE])
def test_kernels_of_every_recipe_are_members(recipe: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices of different thread counts and shared memory in one persistent kernel."""
    check_members(recipe, settings, 6, monkeypatch)


def test_recipes_say_which_kernels_are_launched_alone(settings: Settings, tmp_path: Path) -> None:
    recipes = recipes_of(settings)
    assert {x for x in recipes if not recipes[x].embeddable} == set(ALONE)
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((1024, 1024)).astype(np.float16)}
    feeds = {"x": np.zeros((1024, 1024), np.float16)}
    one = case("ring", [node("MatMul", "x w", "h"), node("Relu", "h", "t"), node("MatMul", "t w", "y")], feeds, weights, ("y",))
    program = plan_model(one.model, settings).program
    assert {x.choice.recipe for x in program.kernels.values()} == {"cuda.wgmma_ring"}
    with pytest.raises(InternalError, match="cuda.wgmma_ring is not embeddable"):
        build_program(merged(program, MERGES["phases"], 4, alone=()), settings, tmp_path)
