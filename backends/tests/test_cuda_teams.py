"""Reductions that many threads share: every way in which their states become one, on the emulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.tests.test_cuda_kernels import RUNNERS, Runner, check, chosen, settings_for
from tilewright.config.binding import Settings
from tilewright.frontend import load
from tilewright.ir import dtypes
from tilewright.testing.cases import case, node

LENGTH = 700


@pytest.fixture(scope="module")
def settings() -> Settings:
    return settings_for("h200")


# Points and lanes: within a warp, and beyond it with few states for each point or many.
TEAMS = [(1, 1024), (4, 8), (4, 128), (6, 16), (12, 32), (16, 64), (32, 2), (64, 16)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("along", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8"])
def test_sums_and_places_agree_to_the_bit(dtype: str, along: bool, runner: Runner, settings: Settings) -> None:
    """Small integers, which floats add exactly in any order; the first of equal maxima is the one of the whole row."""
    rng = np.random.default_rng(2)
    x = rng.integers(0, 3, (90, LENGTH)).astype(dtypes.to_numpy(dtype))
    feeds: dict[str, Any] = {"x": x if along else np.ascontiguousarray(x.T)}
    axis = 1 if along else 0
    params = [{"x.block": points, "lanes": lanes} for points, lanes in TEAMS if points * lanes % 32 == 0]
    nodes = [node("ArgMax", "x", "p", axis=axis, keepdims=0)]
    if dtype != "uint8":
        nodes.append(node("ReduceSum", "x axes", "s", keepdims=0))
    weights = {"axes": np.asarray([axis])} if dtype != "uint8" else {}
    one = case("teams", nodes, feeds, weights, outputs=["p", "s"][: len(nodes)])
    check(load(one.model), list(feeds.values()), settings, runner, "cuda.reduce", params)


def test_what_warps_exchange_needs_little_shared_memory(settings: Settings) -> None:
    one = case("sum", [node("ReduceSum", "x axes", "y", keepdims=0)], {"x": np.zeros((LENGTH, 90), np.float32)},
               {"axes": np.asarray([0])})  # fmt: skip
    program, _ = chosen(load(one.model), settings, "cuda.reduce", [{"x.block": 8, "lanes": 128}])
    (kernel,) = program.kernels.values()
    assert kernel.choice.resources.shared_bytes == 8 * 32 * 4 + 16
