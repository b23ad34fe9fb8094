"""The criterion of agreement, and that small faults of a compiler turn it red."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tilewright.compare import Tolerance, compare_outputs


def agreement(a: Any, b: Any, tolerance: Tolerance | None = None) -> Any:
    return compare_outputs(["y"], [np.asarray(a)], [np.asarray(b)], tolerance)[0]


RNG = np.random.default_rng(0)
B = RNG.standard_normal((8, 16)).astype(np.float32)


@given(hnp.arrays(st.sampled_from([np.float32, np.float16, np.int8, np.bool_]), hnp.array_shapes(min_dims=0)))
def test_everything_agrees_with_itself(array: np.ndarray[Any, Any]) -> None:
    assert agreement(array.copy(), array).ok


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [(np.float64, 1e-4), (np.float32, 1e-4), (np.float16, 1e-2), (ml_dtypes.bfloat16, 3e-2)],
)
def test_the_limit_of_each_dtype(dtype: Any, limit: float) -> None:
    b = np.full(1000, 1.0).astype(dtype)
    inside, outside = (b.astype(np.float64) * (1 + f * limit) for f in (0.5, 1.6))
    assert agreement(inside.astype(dtype), b).ok
    found = agreement(outside.astype(dtype), b)
    assert not found.ok
    assert found.norm_error > limit


def test_dtype_and_shape_must_be_equal() -> None:
    assert "float64 instead of float32" in agreement(B.astype(np.float64), B).why
    assert "[16, 8] instead of [8, 16]" in agreement(B.T, B).why
    assert not agreement(B[None], B).ok


def test_nan_and_infinities_must_stand_in_the_same_places() -> None:
    b = np.array([1, np.nan, np.inf, -np.inf, 2], np.float32)
    assert agreement(b.copy(), b).ok
    for i, wrong in ((0, np.nan), (1, 0), (2, -np.inf), (2, 3e38), (3, np.nan), (4, np.inf)):
        a = b.copy()
        a[i] = wrong
        assert not agreement(a, b).ok, (i, wrong)
    a = b.copy()
    a[0] = 1.01
    assert agreement(a, b).norm_error == pytest.approx(0.01 / np.sqrt(5), rel=1e-3)


def test_integers_must_be_equal() -> None:
    b = np.arange(5, dtype=np.int64)
    assert agreement(b.copy(), b).ok
    found = agreement(b + np.array([0, 0, 0, 0, 1]), b)
    assert (found.ok, found.max_error) == (False, 1.0)
    assert "1 of 5" in found.why
    assert not agreement(np.array([True, False]), np.array([True, True])).ok


def test_a_reference_of_zeros_allows_only_zeros() -> None:
    assert agreement(np.zeros(3, np.float32), np.zeros(3, np.float32)).ok
    assert not agreement(np.full(3, 1e-30, np.float32), np.zeros(3, np.float32)).ok


def test_element_tolerances_are_checked_when_asked_for() -> None:
    a = B.copy()
    a[0, 0] += 1e-5
    assert agreement(a, B).ok
    assert agreement(a, B, Tolerance(atol=1e-4)).ok
    assert "1 of 128 elements" in agreement(a, B, Tolerance(atol=1e-6)).why
    assert not agreement(a, B, Tolerance(rtol=1e-9)).ok


@pytest.mark.parametrize(
    "fault",
    [
        lambda x, w: x @ w.T,  # a transposed weight
        lambda x, w: x @ np.roll(w, 1, axis=0),  # an index shifted by one
        lambda x, w: np.zeros((x.shape[0], w.shape[1]), np.float32),  # a kernel that was skipped
        lambda x, w: x @ np.where(np.arange(16)[:, None] == 15, 0, w),  # the last reduction step left out
    ],
)
def test_faults_of_a_compiler_turn_it_red(fault: Any) -> None:
    w = RNG.standard_normal((16, 16)).astype(np.float32)
    assert agreement(B @ w, B @ w).ok
    assert not agreement(fault(B, w).astype(np.float32), B @ w).ok
