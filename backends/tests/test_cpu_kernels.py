"""Corners of the CPU's kernels: NaN, wrong indices, duplicates, tensors without elements. Compared with NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tilewright.compiler import plan_module
from tilewright.config.binding import bind
from tilewright.config.schema import Config
from tilewright.frontend import load
from tilewright.ir.choice import TileChoice
from tilewright.plugins.manager import Registry
from tilewright.recipes import Match
from tilewright.runtime.immediate import run
from tilewright.testing import conformance
from tilewright.testing.cases import case, node
from tilewright_backends.emit.cpu.panel import Panel

LENGTHS = (1, 7, 16, 37)
"""Scalars, partial vectors, a whole one, and both."""


def outputs(nodes: Any, feeds: Mapping[str, Any], results: tuple[str, ...] = ("y",), **weights: Any) -> list[Any]:
    """What the compiled model gives."""
    settings = bind(Config(target="cpu"), Registry())
    module = load(case("corner", nodes, feeds, weights=weights, outputs=results).model)
    return run(plan_module(module, settings).program, settings, [feeds[name] for name in module.input_names])


def with_nan(length: int) -> Any:
    """Numbers of which every third, from the first on, is NaN."""
    x = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    x[::3] = np.nan
    return x


@pytest.mark.parametrize("length", LENGTHS)
def test_nan_is_found(length: int) -> None:
    x = with_nan(length)
    (found,) = outputs([node("IsNaN", "x", "y")], {"x": x})
    np.testing.assert_array_equal(found, np.isnan(x))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", ["Max", "Min"])
def test_nan_wins_on_either_side(kind: str, length: int) -> None:
    x = with_nan(length)
    a, b = x, x[::-1].copy()
    (found,) = outputs([node(kind, "a b", "y")], {"a": a, "b": b})
    np.testing.assert_array_equal(found, {"Max": np.maximum, "Min": np.minimum}[kind](a, b))


@pytest.mark.parametrize("length", LENGTHS)
def test_nan_is_true(length: int) -> None:
    x = np.where(np.arange(length) % 2, 0, with_nan(length)).astype(np.float32)
    (found,) = outputs([node("Cast", "x", "y", to=9)], {"x": x})
    np.testing.assert_array_equal(found, x.astype(np.bool_))


@pytest.mark.parametrize("length", LENGTHS)
def test_nan_stays_in_bfloat16(length: int) -> None:
    # A NaN whose upper half alone is an infinity.
    x = with_nan(length).view(np.uint32)
    x[::3] = 0x7F800001
    (found,) = outputs([node("Cast", "x", "y", to=16)], {"x": x.view(np.float32)})
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(np.isnan(found.astype(np.float32)), np.isnan(x.view(np.float32)))


@pytest.mark.parametrize("length", LENGTHS)
def test_remainder_of_floats_takes_the_sign_of_the_divisor(length: int) -> None:
    x = np.random.default_rng(length).standard_normal((2, length)) * 5
    q = np.where(x[1] < 0, -1.5, 1.5)
    (found,) = outputs([node("Mod", "a b", "y", fmod=0)], {"a": x[0], "b": q})
    np.testing.assert_allclose(found, np.mod(x[0], q), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("largest", [0, 1])
def test_nan_is_the_greatest_and_equal_elements_keep_their_order(largest: int) -> None:
    x = np.asarray([[3, np.nan, 1, 3, np.nan, -np.inf, 1, np.inf, 0, 3]], np.float32)
    nodes = [node("TopK", "x k", "v i", largest=largest)]
    values, indices = outputs(nodes, {"x": x}, ("v", "i"), k=np.asarray([10], np.int64))
    order = [1, 4, 7, 0, 3, 9, 2, 6, 8, 5] if largest else [5, 8, 2, 6, 0, 3, 9, 7, 1, 4]
    np.testing.assert_array_equal(indices, [order])
    np.testing.assert_array_equal(values, x[:, order])


@pytest.mark.parametrize("columns", [1, 5, 40])
def test_the_last_of_equal_indices_wins_and_wrong_ones_write_nothing(columns: int) -> None:
    rng = np.random.default_rng(columns)
    x, u = (rng.standard_normal((n, columns)).astype(np.float32) for n in (6, 5))
    rows = np.asarray([[2], [0], [2], [9_000_000], [0]], np.int64)
    (found,) = outputs([node("ScatterND", "x i u", "y")], {"x": x, "i": rows, "u": u})
    wanted = x.copy()
    wanted[2], wanted[0] = u[2], u[4]
    np.testing.assert_array_equal(found, wanted)


def test_results_without_elements() -> None:
    x = np.empty((0, 3), np.float32)
    (found,) = outputs([node("Exp", "x", "y")], {"x": x})
    assert found.shape == (0, 3)
    (found,) = outputs([node("ReduceSum", "x a", "y", keepdims=0)], {"x": x}, a=np.asarray([0], np.int64))
    np.testing.assert_array_equal(found, np.zeros(3, np.float32))
    nodes = [node("TopK", "x k", "v i")]
    values, indices = outputs(nodes, {"x": np.ones((2, 3), np.float32)}, ("v", "i"), k=np.asarray([0], np.int64))
    assert values.shape == indices.shape == (2, 0)
    (found,) = outputs([node("CumSum", "x a", "y")], {"x": x}, a=np.asarray(0, np.int64))
    assert found.shape == (0, 3)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "float64"])
def test_cumulative_sums_of_other_types(dtype: str) -> None:
    x = np.random.default_rng(0).integers(0, 9, (5, 21)).astype(dtype)
    (found,) = outputs([node("CumSum", "x a", "y")], {"x": x}, a=np.asarray(0, np.int64))
    np.testing.assert_array_equal(found, np.cumsum(x, 0))


def test_a_constant_is_packed_along_an_axis_that_it_does_not_have() -> None:
    """Rows of a product that are all equal: the output's first axis belongs to neither operand."""
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((3,), (3, 8), (2, 1)))
    nodes = [node("Expand", "x shape", "e"), node("Gemm", "e w b", "y")]
    (found,) = outputs(nodes, {"x": x}, shape=np.array([2, 3]), w=w, b=b)
    np.testing.assert_allclose(found, np.broadcast_to(x, (2, 3)).astype(np.float64) @ w + b, rtol=1e-5)


def test_any_number_of_vectors_side_by_side_covers_every_point() -> None:
    """Blocks that are no whole number of groups of vectors would leave points out."""
    settings = bind(Config(target="cpu"), Registry())
    rng = np.random.default_rng(0)
    nodes = [node("ReduceSum", "x axes", "y", keepdims=0)]
    feeds = {"x": rng.standard_normal((5, 301)).astype(np.float32)}
    one = case("columns", nodes, feeds, weights={"axes": np.asarray([0])})
    module = load(one.model)
    session = conformance.session_of(settings, module)
    (group,) = session.connect(module.main.body).groups
    match = next(m for m in session.matches(group) if m.recipe == "cpu.nest")
    lanes = match.parameters[0].candidates[0]
    params = [
        {"lanes": lanes, "unroll": unroll, "outer.block": 1, "inner.block": 4 * lanes * blocks}
        for unroll in (1, 2, 3, 4)
        for blocks in (1, 2, 3, 6)
    ]
    columns = {name: np.asarray([x[name] for x in params]) for name in params[0]}
    allowed = [x for x, good in zip(params, match.allowed(columns), strict=True) if good]
    assert {x["unroll"] for x in allowed} == {1, 2, 3, 4}
    assert not conformance.wrong(one, module, [(group, match.choice(x)) for x in allowed], settings)


@pytest.mark.parametrize(("width", "tile"), [(7, 7), (14, 7), (14, 14), (30, 5), (28, 14), (9, 3)])
def test_image_rows_of_whole_tiles_are_packed_tile_by_tile(
    width: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 5, 7, width)), rng.standard_normal((35, 5, 3, 3))
    conv = node("Conv", "x w", "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    # Channels are innermost in the result, so pixels are the rows of the product.
    one = case(
        "conv",
        [conv, node("Transpose", "c", "y", perm=[0, 2, 3, 1])],
        {"x": x.astype(np.float32)},
        weights={"w": w.astype(np.float32)},
    )
    sample, begin, by_tile = conformance.sample, Panel.__init__, list[bool]()

    def fitting(match: Match, count: int, rng: np.random.Generator) -> list[TileChoice]:
        found = {x: dict(x.params) for x in sample(match, 2000, rng)}
        return [x for x, y in found.items() if y["rows.tile"] == tile and y["block.inner"] % tile == 0][:3]

    def begun(panel: Panel, *arguments: Any) -> None:
        begin(panel, *arguments)
        by_tile.append(panel.by_tile)

    monkeypatch.setattr(conformance, "sample", fitting)
    monkeypatch.setattr(Panel, "__init__", begun)
    report = conformance.check_recipe("cpu.contraction", bind(Config(target="cpu"), Registry()), 3, cases=[one])
    assert any(by_tile)
    assert not report.failures, report.failures
