"""Whole models compiled for CUDA: on the emulator everywhere, on the device where there is one."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import onnx
import onnxruntime
import pytest

import tilewright
from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.test_cuda_conformance import RECIPES
from tilewright.api import compile_artifact, settings_for
from tilewright.compare import compare_outputs
from tilewright.compiler import build_program, plan_model, plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.errors import InputError
from tilewright.ir import dtypes
from tilewright.ir.lengths import delivered
from tilewright.plugins.manager import Registry
from tilewright.testing import conformance
from tilewright.testing.cases import case, node
from tilewright.testing.control import control_case
from tilewright.testing.dimensions import with_dimensions
from tilewright.testing.models import BUILDERS
from tilewright.testing.node_cases import cases, run_case
from tilewright.testing.precision import narrowed
from tilewright.testing.recursion import recursion_case
from tilewright.testing.reference import Reference
from tilewright.testing.seeded import light_model

QUICK_BLOCKS = ("conformer", "gpt")
LIGHT = ("squeezenet", "shufflenet")


@pytest.fixture(scope="module")
def settings() -> Settings:
    registry = Registry()
    registry.load()
    return bind(load_config({"target": "cuda:h200"}), registry)


def expected(model: onnx.ModelProto, feeds: Any) -> list[Any]:
    """ONNX Runtime's outputs for a float32 model."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, feeds)
    return found


def agree(names: Sequence[str], found: Sequence[Any], wanted: Sequence[Any]) -> None:
    """Every output within the tolerance of its dtype."""
    rounded = [w.astype(f.dtype) for f, w in zip(found, wanted, strict=True)]
    for agreement in compare_outputs(list(names), list(found), rounded):
        assert agreement.ok, agreement


def blocks() -> list[Any]:
    return [x if x in QUICK_BLOCKS else pytest.param(x, marks=pytest.mark.slow) for x in sorted(BUILDERS)]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", blocks())
def test_a_block_agrees_with_onnx_runtime(name: str, dtype: str, settings: Settings) -> None:
    case = BUILDERS[name]()
    model = case.model if dtype == "float32" else narrowed(case.model, dtype)
    program = plan_model(model, settings).program
    pairs = zip(program.input_names, program.inputs, strict=True)
    inputs = [case.feeds[key].astype(dtypes.to_numpy(value.dtype)) for key, value in pairs]
    found = emulate(program, settings, inputs)
    agree(program.output_names, found, expected(case.model, dict(case.feeds)))


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT)
def test_a_light_model_agrees_with_onnx_runtime(name: str, settings: Settings) -> None:
    model = light_model(name)
    program = plan_model(model, settings).program
    rng = np.random.default_rng(0)
    feeds = {
        key: rng.standard_normal(value.static_shape()).astype(np.float32)
        for key, value in zip(program.input_names, program.inputs, strict=True)
    }
    found = emulate(program, settings, list(feeds.values()))
    agree(program.output_names, found, expected(model, feeds))


def symbolic_block() -> onnx.ModelProto:
    """Attention over positions, between a packed product and a strided convolution; three dimensions are open."""
    nodes = [
        node("MatMul", "x w", "q"),
        node("Transpose", "q", "t", perm=[0, 2, 1]),
        node("MatMul", "q t", "scores"),
        node("Softmax", "scores", "p", axis=-1),
        node("MatMul", "p q", "a"),
        node("Add", "a b", "y"),
        node("Conv", "image k", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("MatMul", "z a", "m"),
    ]
    rng = np.random.default_rng(0)
    weights = {"w": (64, 96), "b": (96,), "k": (8, 3, 3, 3)}
    feeds = {"x": (2, 5, 64), "z": (2, 9, 5), "image": (2, 3, 9, 9)}
    drawn = [{k: rng.standard_normal(s).astype(np.float32) for k, s in x.items()} for x in (feeds, weights)]
    made = case("symbolic", nodes, drawn[0], drawn[1], ("y", "c", "m", "scores")).model
    names = {"x": ("n", "s", ""), "z": ("n", "", "s"), "image": ("n", "", "h", "s")}
    return with_dimensions(made, names)


RANGES = {"n": range(5), "s": range(1, 50), "h": range(2, 20)}
VALUES = ({"n": 1, "s": 1, "h": 3}, {"n": 2, "s": 7, "h": 8}, {"n": 4, "s": 49, "h": 19}, {"n": 3, "s": 33, "h": 2})


def symbolic_feeds(values: Any) -> dict[str, Any]:
    n, s, h = values["n"], values["s"], values["h"]
    rng = np.random.default_rng(s)
    shapes = {"x": (n, s, 64), "z": (n, 9, s), "image": (n, 3, h, s)}
    return {k: rng.standard_normal(shape).astype(np.float32) for k, shape in shapes.items()}


def test_one_program_for_every_size(settings: Settings) -> None:
    model = symbolic_block()
    program = plan_model(model, settings, RANGES).program
    assert {"cuda.map", "cuda.reduce", "cuda.simt"} <= {k.choice.recipe for k in program.kernels.values()}
    for values in VALUES:
        feeds = symbolic_feeds(values)
        found = emulate(program, settings, [feeds[x] for x in program.input_names], values)
        agree(program.output_names, found, expected(model, feeds))


def test_a_program_for_every_size_is_built_without_a_gpu() -> None:
    made, _ = compile_artifact(symbolic_block(), settings_for("cuda:sm_90a", None), shapes=RANGES, cache=False)
    with made:
        (variant,) = made.manifest.variants
        assert variant.symbols == {name: (x[0], x[-1]) for name, x in RANGES.items()}


@pytest.mark.gpu
def test_one_program_for_every_size_on_the_device() -> None:
    """Values come again, in turns, so that graphs are captured, replayed, and let go when there are too many."""
    model = symbolic_block()
    program = tilewright.compile(model, target="cuda:h200", shapes=RANGES, cache=False)
    more = [{"n": 2, "s": s, "h": 5} for s in range(2, 14)]
    for values in (*VALUES, *VALUES, VALUES[0], *more, *more, *VALUES, {"n": 0, "s": 4, "h": 4}, VALUES[1]):
        feeds = symbolic_feeds(values)
        found = program.run(None, feeds)
        if values["n"]:
            agree([x.name for x in program.outputs], found, expected(model, feeds))
        else:
            assert [x.size for x in found] == [0, 0, 0, 0]


def node_tests(step: int, settings: Settings) -> None:
    """Every `step`-th node test of ONNX: none is wrong, and each that the front end takes finds its recipes."""
    found = [run_case(x, lambda m, a: emulate(plan_module(m, settings).program, settings, a)) for x in cases()[::step]]
    assert [f"{x.name}: {x.detail}" for x in found if x.kind == "wrong" or "No recipe" in x.detail] == []
    assert any(x.kind == "native" for x in found)


def test_a_sample_of_node_tests_gets_the_right_answers(settings: Settings) -> None:
    node_tests(75, settings)


@pytest.mark.slow
def test_many_node_tests_get_the_right_answers(settings: Settings) -> None:
    node_tests(21, settings)


MANY = [pytest.param(x, marks=pytest.mark.slow(every=5)) for x in range(3, 24)]


@pytest.mark.parametrize("seed", [*range(3), *MANY])
def test_a_random_model_with_control_flow_agrees(seed: int, settings: Settings) -> None:
    case = control_case(seed)
    program = plan_model(case.model, settings).program
    found = emulate(program, settings, [np.asarray(case.feeds[x]) for x in program.input_names])
    names = [x.name for x in case.model.graph.output]
    wanted = Reference(18).graph(case.model.graph, case.feeds)
    agree(names, delivered(program.output_names, program.lengths, found), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(40))
def test_a_random_model_with_control_flow_agrees_on_the_device(seed: int) -> None:
    """Two runs: where values of the device decide nothing, the second replays the graph captured from the first."""
    case = control_case(seed)
    program = tilewright.compile(case.model, target="cuda:h200", cache=False)
    wanted = Reference(18).graph(case.model.graph, case.feeds)
    for _ in range(2):
        agree([x.name for x in program.outputs], program.run(None, dict(case.feeds)), wanted)


def close(found: Sequence[Any], wanted: Sequence[Any]) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", [2, 3, 5, 8])
def test_a_random_recursion_agrees(seed: int, settings: Settings) -> None:
    case = recursion_case(seed)
    program = plan_module(case.module, settings).program
    assert program.procedures
    close(emulate(program, settings, case.feeds), case.wanted)


def test_a_recursion_builds_with_its_conditions_read_back(settings: Settings, tmp_path: Path) -> None:
    program = plan_module(recursion_case(2).module, settings).program
    output = build_program(program, settings, tmp_path)
    assert not output.data["capturable"]
    assert output.data["buffers"][-1][1] == "control"
    symbols = subprocess.run(["nm", "-D", output.library], capture_output=True, text=True, check=True).stdout
    assert "U cudaMemcpyAsync" in symbols


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(40))
def test_a_random_recursion_agrees_on_the_device(seed: int) -> None:
    case = recursion_case(seed)
    program = tilewright.compile(case.module, target="cuda:h200", cache=False)
    feeds = dict(zip(case.module.input_names, case.feeds, strict=True))
    for _ in range(2):
        close(program.run(None, feeds), case.wanted)


@pytest.mark.gpu
def test_the_bound_of_a_recursion_leaves_the_program_usable_on_the_device() -> None:
    module = attrs.evolve(recursion_case(2).module, depth=2)
    program = tilewright.compile(module, target="cuda:h200", cache=False)
    feeds = dict(zip(module.input_names, recursion_case(2).feeds, strict=True))
    shallow = feeds | {"count": np.asarray(1, np.int64)}
    before = program.run(None, shallow)
    with pytest.raises(InputError, match="deeper than its bound of 2 calls"):
        program.run(None, feeds | {"count": np.asarray(4, np.int64)})
    close(program.run(None, shallow), before)


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_holds_on_the_device(recipe: str, settings: Settings) -> None:
    report = conformance.check_recipe(f"cuda.{recipe}", settings, 200, 3)
    assert not report.failures, report.failures
    assert report.choices


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "resnet50"])
def test_a_light_model_agrees_on_the_device(name: str) -> None:
    """Three runs: the first calls the host function, the others replay the graph captured from it."""
    model = light_model(name)
    program = tilewright.compile(model, target="cuda:h200")
    names = [x.name for x in program.outputs]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        feeds = {x.name: rng.standard_normal(x.shape).astype(np.float32) for x in program.inputs}
        agree(names, program.run(None, feeds), expected(model, feeds))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "resnet50"])
def test_a_light_model_in_half_precision_is_near_on_the_device(name: str) -> None:
    """Of full size, so that convolutions of a few pixels and of padded windows run on the tensor cores."""
    model = light_model(name)
    program = tilewright.compile(narrowed(model, "float16"), target="cuda:h200")
    rng = np.random.default_rng(1)
    feeds = {x.name: rng.standard_normal(x.shape).astype(np.float32) for x in program.inputs}
    found = program.run(None, {n: x.astype(np.float16) for n, x in feeds.items()})
    for mine, wanted in zip(found, expected(model, feeds), strict=True):
        difference = np.linalg.norm(mine.astype(np.float64) - wanted) / np.linalg.norm(wanted)
        assert difference < 1e-2


@pytest.mark.gpu
@pytest.mark.parametrize("connect", ["epilogue", "welder"])
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_block_in_half_precision_agrees_on_the_device(name: str, connect: str) -> None:
    case = BUILDERS[name]()
    config = {"target": "cuda:h200", "slots": {"connect": connect}}
    program = tilewright.compile(narrowed(case.model, "float16"), config=config)
    feeds = {x.name: case.feeds[x.name].astype(dtypes.to_numpy(x.dtype)) for x in program.inputs}
    agree([x.name for x in program.outputs], program.run(None, feeds), expected(case.model, dict(case.feeds)))
