"""Blocks whose kernels Welder has welded, on the emulator of a GPU, beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import tilewright
from backends.tests.cuda_on_cpu.emulator import emulate
from tests.onnx_runtime import expected
from tilewright.compare import compare_outputs
from tilewright.compiler import plan_model
from tilewright.config import Config
from tilewright.config.binding import Settings, bind
from tilewright.ir.program import Program
from tilewright.plugins.manager import Registry
from tilewright.testing.cases import Case, case, node, steps
from tilewright.testing.models import BUILDERS
from tilewright.testing.precision import narrowed, narrowed_feeds

QUICK = ("gpt",)
NAMES = [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow) for x in sorted(BUILDERS)]


def settings(connect: str = "welder") -> Settings:
    """For a device with every feature."""
    return bind(Config(target="cuda:h200", slots={"connect": connect}), Registry())


def run(program: Program, feeds: dict[str, Any]) -> list[Any]:
    return emulate(program, settings(), [feeds[x] for x in program.input_names])


def fewer_launches(model: onnx.ModelProto, program: Program) -> None:
    """Fewer than by default, and at least one of several stages."""
    assert len(program.body) < len(plan_model(model, settings("epilogue")).program.body)
    assert any(level == "shared" for x in program.kernels.values() for _, level in x.group.levels)


@pytest.mark.parametrize("name", NAMES)
def test_a_block_agrees_with_onnx_runtime(name: str) -> None:
    case = BUILDERS[name]()
    program = plan_model(case.model, settings()).program
    fewer_launches(case.model, program)
    found = run(program, dict(case.feeds))
    for agreement in compare_outputs(program.output_names, found, expected(case.model, case.feeds)):
        assert agreement.ok, agreement


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_block_in_float16_is_near_the_float32_one(name: str) -> None:
    case = BUILDERS[name](opset=22)
    exact = expected(case.model, case.feeds)
    model = narrowed(case.model, "float16")
    program = plan_model(model, settings()).program
    fewer_launches(model, program)
    found = run(program, dict(narrowed_feeds(case.feeds, "float16")))
    for mine, wanted in zip(found, exact, strict=True):
        difference = np.linalg.norm(mine.astype(np.float64) - wanted) / np.linalg.norm(wanted)
        assert 1e-6 < difference < 1e-2


def gated(kind: str) -> Case:
    """A step of an LSTM, or a gated layer, of which the gates are pieces of products."""
    random = np.random.default_rng(11)

    def drawn(*shape: int) -> Any:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    if kind == "layer":
        nodes = [node("MatMul", "x w", "m"), node("Split", "m", "a b", axis=-1, num_outputs=2)]
        nodes += steps("s = Sigmoid a; t = Mul a s; y = Mul t b")
        return case("layer", nodes, {"x": drawn(2, 3, 32)}, {"w": drawn(32, 96)})
    nodes = [node("Gemm", "x w bias", "m", transB=1), node("Gemm", "h u", "n", transB=1), *steps("g = Add m n")]
    nodes += [node("Split", "g", "i f c o", axis=1, num_outputs=4)]
    nodes += steps("si = Sigmoid i; sf = Sigmoid f; tc = Tanh c; so = Sigmoid o; kept = Mul sf before; new = Mul si tc")
    nodes += steps("cell = Add kept new; tcell = Tanh cell; y = Mul so tcell")
    feeds = {"x": drawn(2, 48), "h": drawn(2, 40), "before": drawn(2, 40)}
    weights = {"w": drawn(160, 48), "u": drawn(160, 40), "bias": drawn(160)}
    return case("step", nodes, feeds, weights, outputs=["y", "cell"])


@pytest.mark.parametrize("kind", ["step", "layer"])
def test_gates_of_a_product_agree_with_onnx_runtime(kind: str) -> None:
    made = gated(kind)
    program = plan_model(made.model, settings()).program
    assert any("by_pieces" in x.group.trail for x in program.kernels.values())
    wanted = expected(made.model, made.feeds)
    on_cpu = {"target": "cpu", "slots": {"connect": "welder"}}
    for found in (run(program, dict(made.feeds)), tilewright.compile(made.model, config=on_cpu).run(None, made.feeds)):
        for agreement in compare_outputs(program.output_names, found, wanted):
            assert agreement.ok, agreement


def test_joined_products_run_from_an_artifact_on_the_host() -> None:
    case = BUILDERS["bert"]()
    config = {"target": "cpu", "slots": {"connect": "welder"}}
    assert any("part of" in str(x.chosen) for x in plan_model(case.model, settings("welder")).decisions)
    found = tilewright.compile(case.model, config=config).run(None, dict(case.feeds))
    for mine, wanted in zip(found, expected(case.model, case.feeds), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("connect", ["welder", "epilogue"])
def test_masks_and_rows_of_tables_are_computed_where_they_are_read(connect: str) -> None:
    random = np.random.default_rng(3)
    nodes = steps("here = Equal places i; later = Greater places i; cache = Where here new old")
    nodes += [node("Gather", "table i", "row", axis=0), node("Split", "row", "p q", axis=1, num_outputs=2)]
    nodes += steps("t = Where later p cache; y = Mul t q")
    feeds = {"i": np.asarray([5]), "new": random.standard_normal((1, 16)), "old": random.standard_normal((12, 16))}
    feeds = {k: v if k == "i" else v.astype(np.float32) for k, v in feeds.items()}
    weights = {"places": np.arange(12).reshape(12, 1), "table": random.standard_normal((9, 32)).astype(np.float32)}
    one = case("masks", nodes, feeds, weights, outputs=["cache", "y"])
    program = plan_model(one.model, settings(connect)).program
    assert (len(program.kernels) == 1) == (connect == "welder")
    for agreement in compare_outputs(program.output_names, run(program, feeds), expected(one.model, feeds)):
        assert agreement.ok, agreement


def decoding(batch: int, heads: int, size: int, longest: int) -> Case:
    """A step of attention with caches, which it updates, between a normalisation and two products."""
    random, width = np.random.default_rng(7), heads * size

    def drawn(*shape: int) -> Any:
        return random.standard_normal(shape).astype(np.float32)

    nodes = [node("LayerNormalization", "x scale bias", "n", axis=-1), node("MatMul", "n into", "joined")]
    nodes += [node("Split", "joined", "q0 k0 v0", axis=-1, num_outputs=3)]
    nodes += steps("q = Reshape q0 shape; k = Reshape k0 shape; v = Reshape v0 shape; here = Equal places i")
    nodes += steps("keys = Where here k oldkeys; values = Where here v oldvalues; later = Greater along i")
    nodes += [node("Transpose", "keys", "turned", perm=[0, 1, 3, 2])]
    nodes += steps("products = MatMul q turned; scaled = Mul products factor; scores = Where later low scaled")
    nodes += [node("Softmax", "scores", "weights", axis=-1)]
    nodes += steps("found = MatMul weights values; flat = Reshape found outer; z = MatMul flat out; y = Add z x")
    cache = (batch, heads, longest, size)
    feeds = {
        "x": drawn(batch, width),
        "oldkeys": drawn(*cache),
        "oldvalues": drawn(*cache),
        "i": np.asarray(longest // 2),
    }
    weights = {"into": drawn(width, 3 * width) / 5, "out": drawn(width, width) / 5, "factor": np.float32(size**-0.5)}
    weights |= {"scale": drawn(width), "bias": drawn(width), "low": np.float32(-1e9)}
    weights |= {"shape": np.asarray([batch, heads, 1, size]), "outer": np.asarray([batch, width])}
    weights |= {"places": np.arange(longest).reshape(longest, 1), "along": np.arange(longest)}
    return case("decoding", nodes, feeds, weights, outputs=["keys", "values", "y"])


@pytest.mark.parametrize(("batch", "heads", "size", "longest"), [(1, 3, 32, 40), (2, 4, 16, 24)])
def test_attention_that_updates_its_caches_is_one_kernel(batch: int, heads: int, size: int, longest: int) -> None:
    one = decoding(batch, heads, size, longest)
    program = plan_model(one.model, settings()).program
    made = {v.name for x in program.kernels.values() for v in x.group.outputs}
    (attention,) = (x for x in program.kernels.values() if {"keys", "values"} <= {v.name for v in x.group.outputs})
    assert len(attention.group.outputs) == 3, made
    found = run(program, dict(one.feeds))
    for agreement in compare_outputs(program.output_names, found, expected(one.model, one.feeds)):
        assert agreement.ok, agreement
