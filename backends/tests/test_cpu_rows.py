"""`cpu.rows`: what it keeps and where, and that what it keeps is rounded. Compared with the tensor interpreter."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tilewright.config.binding import bind
from tilewright.config.schema import Config
from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.plugins.manager import Registry
from tilewright.recipes import Match
from tilewright.runtime.immediate import run
from tilewright.testing.cases import Case, case, node, steps
from tilewright.testing.conformance import copies, sample, session_of, welded
from tilewright_backends.recipes.cpu.rows import RowLoops


def matched(one: Case) -> Match | None:
    """How the recipe sees a model as one group."""
    settings = bind(Config(target="cpu:x86-64-v3"), Registry())
    module = load(one.model)
    session = session_of(settings, module, connect=welded(settings.service("connect")))
    (group,) = session.connect(module.main.body).groups
    return next((x for x in session.matches(group) if x.recipe == "cpu.rows"), None)


def loops(one: Case) -> RowLoops:
    match = matched(one)
    assert match is not None
    assert isinstance(match.detail, RowLoops)
    return match.detail


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def softmax(axis: int, *shape: int) -> Case:
    return case("softmax", [node("Softmax", "x", "y", axis=axis)], {"x": zeros(*shape)})


def test_lanes_run_where_memory_does() -> None:
    along, beside = loops(softmax(2, 2, 5, 100)), loops(softmax(1, 2, 5, 100))
    assert (along.lane_axis, along.lanes, along.strip, along.strips) == (along.rows.columns[-1].name, 8, 1, 10)
    assert (beside.lane_axis, beside.lanes, beside.strip, beside.strips) == (beside.rows.rows[-1].name, 8, 8, 2 * 13)


def test_stages_run_together_up_to_a_number_of_the_row() -> None:
    found = loops(softmax(1, 4, 100))
    assert [[x.kind for x in stages] for stages in found.passes] == [["reduce"], ["map", "reduce"], ["map"]]
    assert [x.name for x in found.buffered] == ["y_exp"]
    assert found.buffer_bytes == 104 * 4  # whole vectors


def test_what_is_only_passed_on_within_a_pass_is_not_kept() -> None:
    steps_of = steps("e = Exp x; m = ReduceMax e a")
    one = case("m", steps_of, {"x": zeros(4, 100)}, {"a": np.asarray([1])}, outputs=("e", "m"))
    found = loops(one)
    assert [len(x) for x in found.passes] == [2]
    assert found.buffered == ()


def test_rows_that_are_too_long_to_be_kept() -> None:
    assert matched(softmax(1, 2, 200_000)) is None
    less = case("less", steps("m = ReduceMean x a; y = Sub x m"), {"x": zeros(2, 200_000)}, {"a": np.asarray([1])})
    assert matched(less) is not None  # it keeps a number


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("axis", [1, 2])
def test_what_is_kept_is_rounded(axis: int, dtype: Any) -> None:
    """The largest and what is computed element by element are exact up to the rounding of every value."""
    x = np.random.default_rng(axis).standard_normal((3, 21, 19)).astype(dtype)
    weights = {"c": np.asarray(0.3, dtype), "a": np.asarray([axis])}
    nodes = steps("t = Mul x c; m = ReduceMax t a; d = Sub t m; n = ReduceMin d a; y = Mul d n")
    one = case("rounded", nodes, {"x": x}, weights)
    settings = bind(Config(target="cpu"), Registry())
    module = load(one.model)
    connect = welded(settings.service("connect"))
    session = session_of(settings, module, connect=connect)
    (group,) = session.connect(module.main.body).groups
    (match,) = session.matches(group)
    assert len(match.detail.buffered) == 2
    picks = [(group, choice) for choice in sample(match, 2, np.random.default_rng(0))]
    (wanted,) = interpret(module, [x])
    for found in run(copies(module, picks, settings, connect), settings, [x]):
        np.testing.assert_array_equal(found.astype(np.float32), wanted.astype(np.float32))
