"""Which recipe and which shape of block some kernels get on a GPU: windows, long rows, products of few rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilewright.compiler import recipes_of
from tilewright.config.binding import bind
from tilewright.config.loading import load_config
from tilewright.frontend import load
from tilewright.ir.choice import TileChoice
from tilewright.plugins.manager import Registry
from tilewright.testing.cases import Case, case, node
from tilewright.testing.conformance import session_of, welded

PROPOSERS = ("divisors", "roller")


def best(one: Case, proposer: str, *recipes: str, weld: bool = False) -> TileChoice:
    """The first choice for a model of one kernel, or one that is welded into one; by default of all recipes."""
    registry = Registry()
    registry.load()
    config: dict[str, Any] = {"target": "cuda:h200", "slots": {"propose": proposer}}
    settings = bind(load_config(config), registry)
    module = load(one.model)
    known = recipes_of(settings)
    connect = settings.service("connect")
    connect = welded(connect) if weld else connect
    session = session_of(settings, module, [known[x] for x in recipes] or None, connect=connect)
    (group,) = session.connect(module.main.body).groups
    return session.propose(group)[0]


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def depthwise(channels: int, rows: int, window: int, stride: int) -> Case:
    """A batch of 128 images, the odd row of padding at the end."""
    total = max((-(-rows // stride) - 1) * stride + window - rows, 0)
    pads = [total // 2] * 2 + [total - total // 2] * 2
    conv = node("Conv", "x w", "y", group=channels, strides=[stride, stride], pads=pads)
    images, weights = zeros(128, channels, rows, rows), zeros(channels, 1, window, window)
    return case("depthwise", [conv], {"x": images}, weights={"w": weights})


def average(channels: int, rows: int, window: int, stride: int) -> Case:
    pool = node("AveragePool", "x", "y", kernel_shape=[window] * 2, strides=[stride] * 2, pads=[1, 1, 1, 1])
    return case("average", [pool], {"x": zeros(128, channels, rows, rows)})


def mean(rows: int, columns: int, axis: int) -> Case:
    reduced = node("ReduceMean", "x a", "y", keepdims=0)
    return case("mean", [reduced], {"x": zeros(rows, columns)}, weights={"a": np.asarray([axis], np.int64)})


@pytest.mark.parametrize("proposer", PROPOSERS)
@pytest.mark.parametrize(
    "window",
    [depthwise(84, 83, 5, 2), depthwise(84, 83, 7, 2), depthwise(336, 21, 3, 1), average(672, 21, 3, 2)],
    ids=["5x5 stride 2", "7x7 stride 2", "3x3", "pooling"],
)
def test_a_window_is_not_split_over_lanes(window: Case, proposer: str) -> None:
    assert best(window, proposer, "cuda.reduce").as_dict()["lanes"] == 1


@pytest.mark.parametrize("proposer", PROPOSERS)
def test_long_rows_are_split_over_lanes_and_columns_are_not(proposer: str) -> None:
    assert best(mean(65536, 1024, 1), proposer, "cuda.reduce").as_dict()["lanes"] >= 8
    assert best(mean(512, 1024, 1), proposer, "cuda.reduce").as_dict()["lanes"] >= 64
    columns = best(mean(1024, 65536, 0), proposer, "cuda.reduce").as_dict()
    assert columns["x.block"] >= 8


@pytest.mark.parametrize("proposer", PROPOSERS)
@pytest.mark.parametrize(
    "window",
    [
        depthwise(84, 83, 5, 2),
        depthwise(84, 83, 7, 2),
        depthwise(96, 165, 5, 2),
        depthwise(84, 42, 5, 1),
        depthwise(672, 11, 7, 1),
        average(84, 83, 3, 2),
    ],
    ids=["5x5 stride 2", "7x7 stride 2", "5x5 of large images", "5x5", "7x7 of small images", "pooling"],
)
def test_windows_that_overlap_are_computed_in_tiles(window: Case, proposer: str) -> None:
    choice = best(window, proposer)
    assert choice.recipe == "cuda.window"
    assert choice.as_dict()["y.thread"] >= 3


@pytest.mark.parametrize("proposer", PROPOSERS)
@pytest.mark.parametrize("rows", [1, 16])
def test_products_of_few_rows_are_read_at_the_speed_of_memory(rows: int, proposer: str) -> None:
    x, weights = np.zeros((rows, 4096), np.float16), np.zeros((4096, 4096), np.float16)
    choice = best(case("decoding", [node("MatMul", "x w", "y")], {"x": x}, weights={"w": weights}), proposer)
    assert choice.recipe == "cuda.thin"
    assert choice.resources.tasks >= 64


@pytest.mark.parametrize("proposer", PROPOSERS)
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_no_more_teams_than_rows(rows: int, proposer: str) -> None:
    softmax = case("softmax", [node("Softmax", "x", "y")], {"x": zeros(rows, 1000)})
    choice = best(softmax, proposer, weld=True)
    assert choice.recipe == "cuda.rows"
    assert choice.as_dict()["rows.block"] < 2 * rows
    assert choice.as_dict()["lanes"] >= 32
