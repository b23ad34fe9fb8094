"""`cuda.stages` on the emulator, beside float64, and what its products run on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.test_cuda_attention import program_of
from tilewright.compiler import recipes_of
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.frontend import load
from tilewright.ir.program import Program
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import RecipeEntry
from tilewright.testing.cases import Case, case, node
from tilewright.testing.conformance import session_of, welded
from tilewright_backends.build.cuda.builder import device_kernel
from tilewright_backends.build.cuda.source import cuda_source


@pytest.fixture(scope="module")
def settings() -> Settings:
    registry = Registry()
    registry.load()
    return bind(load_config({"target": "cuda:h200"}), registry)


def block(dtype: str, stride: int = 1, size: int = 9) -> Case:
    """Widen, filter each channel, narrow."""
    rng = np.random.default_rng(5)

    def rand(*shape: int) -> Any:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype)

    nodes = [
        node("Conv", "x u", "c"),
        node("Relu", "c", "r"),
        node("Conv", "r v", "d", group=40, pads=[1, 1, 1, 1], strides=[stride, stride]),
        node("Conv", "d w", "y"),
    ]
    weights = {"u": rand(40, 24, 1, 1), "v": rand(40, 1, 3, 3), "w": rand(20, 40, 1, 1)}
    return case("block", nodes, {"x": rng.standard_normal((1, 24, size, size)).astype(dtype)}, weights)


def program(one: Case, settings: Settings, **sizes: int) -> Program:
    """The model as one kernel, with tiles of these sizes; other axes are taken whole."""
    module = load(one.model)
    recipe = recipes_of(settings)[f"{settings.target.backend}.stages"]
    session = session_of(settings, module, [recipe], connect=welded(settings.service("connect")))
    (group,) = session.connect(module.main.body).groups
    (match,) = session.matches(group)
    params = {p.name: sizes.get(p.name.removeprefix("tile."), p.candidates[-1]) for p in match.parameters}
    return program_of(module, group, match.choice(params | {"threads": sizes.get("threads", 128)}), settings)


def exact(one: Case, stride: int) -> Any:
    """In float64, from the same rounded operands."""
    x = one.feeds["x"].astype(np.float64)
    w = {t.name: np.asarray(numpy_helper.to_array(t), np.float64) for t in one.model.graph.initializer}
    wide = np.maximum(np.einsum("nchw,fc->nfhw", x, w["u"][:, :, 0, 0]), 0)
    padded = np.pad(wide, ((0, 0), (0, 0), (1, 1), (1, 1)))
    size = (x.shape[2] - 1) // stride + 1
    taps = [
        padded[:, :, i : i + stride * (size - 1) + 1 : stride, k : k + stride * (size - 1) + 1 : stride]
        * w["v"][None, :, 0, i, k, None, None]
        for i in range(3)
        for k in range(3)
    ]
    return np.einsum("nchw,fc->nfhw", sum(taps), w["w"][:, :, 0, 0])


@pytest.mark.sampled(5)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("tile", [1, 2, 3, 5])
def test_a_block_of_convolutions_agrees_with_float64(dtype: str, stride: int, tile: int, settings: Settings) -> None:
    one = block(dtype, stride)
    (found,) = emulate(program(one, settings, i1=tile, i2=min(tile + 1, 5)), settings, [one.feeds["x"]])
    wanted = exact(one, stride)
    assert found.shape == wanted.shape
    error = np.linalg.norm(found.astype(np.float64) - wanted) / np.linalg.norm(wanted)
    assert error < (1e-6 if dtype == "float32" else 2e-3)


@pytest.mark.parametrize(("dtype", "used"), [("float16", True), ("float32", False)])
def test_products_of_16_bit_floats_run_on_tensor_cores(dtype: str, used: bool, settings: Settings) -> None:
    made = program(block(dtype), settings, i1=3, i2=3)
    (kernel,) = made.kernels.values()
    entry = settings.registry.get(RecipeEntry, "cuda.stages")
    code = cuda_source([device_kernel(kernel, made, settings.registry.code(entry, entry.emitter), "sm_90a")], "sm_90a")
    assert (code.count("tw_mma_float16(") > 2) == used  # its definition, and a call in each of two stages


def test_a_number_between_stages_is_kept_in_shared_memory(settings: Settings) -> None:
    x = np.random.default_rng(6).standard_normal((6, 7)).astype("float32")
    one = case("number", [node("ReduceSum", "x", "s", keepdims=0), node("Mul", "x s", "y")], {"x": x})
    (found,) = emulate(program(one, settings), settings, [x])
    wanted = x.astype(np.float64) * x.astype(np.float64).sum()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "columns", "threads"), [(1, 6, 512), (2, 4, 128), (3, 20, 1024), (3, 7, 256)])
def test_threads_share_sums_and_the_first_task_stores_what_passes(
    rows: int, columns: int, threads: int, settings: Settings
) -> None:
    """A normalisation that is a result too, and a product: tasks of the same rows make the same of it."""
    rng = np.random.default_rng(8)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 50), (50, 20)))
    nodes = [node("LayerNormalization", "x s b", "n", axis=-1), node("MatMul", "n w", "m"), node("Add", "m c", "y")]
    weights = {"s": rng.standard_normal(50), "b": rng.standard_normal(50), "c": rng.standard_normal(20)}
    weights = {k: v.astype(np.float32) for k, v in weights.items()} | {"w": w}
    one = case("norm", nodes, {"x": x}, weights, outputs=["n", "y"])
    found = emulate(program(one, settings, i0=rows, i1=columns, threads=threads), settings, [x])
    wide = x.astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True)
    n = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * weights["s"] + weights["b"]
    for mine, wanted in zip(found, (n, n @ w + weights["c"]), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-4)


def test_a_stage_of_few_points_has_its_shared_sums_in_the_memory_that_is_reckoned(settings: Settings) -> None:
    x = np.zeros((2, 64), np.float32)
    nodes = [node("LayerNormalization", "x s b", "n", axis=-1), node("MatMul", "n w", "y")]
    weights = {"s": np.ones(64, np.float32), "b": np.ones(64, np.float32), "w": np.ones((64, 8), np.float32)}
    made = program(case("norm", nodes, {"x": x}, weights), settings, i0=1, i1=8, threads=512)
    (kernel,) = made.kernels.values()
    entry = settings.registry.get(RecipeEntry, "cuda.stages")
    built = device_kernel(kernel, made, settings.registry.code(entry, entry.emitter), "sm_90a")
    assert 512 * 4 < built.shared_bytes <= kernel.choice.resources.shared_bytes
