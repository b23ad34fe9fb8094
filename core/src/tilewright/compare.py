"""Do two sets of outputs agree? The criterion that every check of results in the project uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen

from tilewright.ir import dtypes
from tilewright.runtime.native import Array

NORM_LIMITS: Mapping[str, float] = {"float64": 1e-4, "float32": 1e-4, "float16": 1e-2, "bfloat16": 3e-2}
"""Largest allowed ‖a - b‖ / ‖b‖ of outputs of each floating dtype; other dtypes must be equal."""


@frozen
class Tolerance:
    """How far outputs may lie apart.

    Args:
        norm: limit of ‖a - b‖ / ‖b‖, by dtype.
        rtol: if it or `atol` is given, each element must also satisfy `|a - b| <= atol + rtol·|b|`.
        atol: see `rtol`.
    """

    norm: Mapping[str, float] = field(factory=lambda: NORM_LIMITS)
    rtol: float | None = None
    atol: float | None = None


@frozen
class Agreement:
    """How one output compares with its reference.

    Args:
        name: of the output.
        ok: whether it agrees.
        norm_error: ‖a - b‖ / ‖b‖ over the finite elements; for integers the share of elements that differ;
            infinite where the two cannot be compared.
        max_error: largest |a - b| of the finite elements.
        why: what is wrong, or "".
    """

    name: str
    ok: bool
    norm_error: float
    max_error: float
    why: str = ""


def compare_outputs(
    names: Sequence[str],
    outputs: Sequence[Array],
    reference: Sequence[Array],
    tolerance: Tolerance | None = None,
) -> list[Agreement]:
    """One `Agreement` per output: equal dtype, shape and places of NaN and infinities, and values within
    tolerance.
    """
    return [
        _compare(name, ours, theirs, tolerance or Tolerance())
        for name, ours, theirs in zip(names, outputs, reference, strict=True)
    ]


def _compare(name: str, ours: Array, theirs: Array, tolerance: Tolerance) -> Agreement:
    def refused(why: str, norm_error: float = np.inf, max_error: float = np.inf) -> Agreement:
        return Agreement(name, False, norm_error, max_error, why)

    if ours.dtype != theirs.dtype:
        return refused(f"dtype {ours.dtype} instead of {theirs.dtype}")
    if ours.shape != theirs.shape:
        return refused(f"shape {list(ours.shape)} instead of {list(theirs.shape)}")
    dtype = dtypes.from_numpy(ours.dtype)
    if not dtypes.is_float(dtype):
        a, b = (x.astype(np.float64) for x in (ours, theirs)) if dtypes.is_narrow(dtype) else (ours, theirs)
        differs = (a != b) & ~(np.isnan(a) & np.isnan(b))
        share = float(np.mean(differs)) if ours.size else 0.0
        if share:
            worst = float(np.nanmax(np.abs(a.astype(np.float64) - b.astype(np.float64)), initial=0.0))
            return refused(f"{int(np.sum(differs))} of {ours.size} elements differ", share, worst)
        return Agreement(name, True, 0.0, 0.0)

    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return refused("NaN in other places")
    if not np.array_equal(np.where(np.isinf(a), a, 0), np.where(np.isinf(b), b, 0)):
        return refused("infinities in other places")
    finite = np.isfinite(b)
    a, b = a[finite], b[finite]
    norm_error, worst = _norm_error(a, b), float(np.max(np.abs(a - b), initial=0.0))
    limit = tolerance.norm[dtype]
    if norm_error > limit:
        return refused(f"‖a-b‖/‖b‖ is {norm_error:.2e}, more than {limit:g}", norm_error, worst)
    if tolerance.rtol is not None or tolerance.atol is not None:
        atol, rtol = tolerance.atol or 0.0, tolerance.rtol or 0.0
        wrong = int(np.sum(np.abs(a - b) > atol + rtol * np.abs(b)))
        if wrong:
            return refused(
                f"{wrong} of {ours.size} elements differ by more than {atol:g} + {rtol:g}·|b|", norm_error, worst
            )
    return Agreement(name, True, norm_error, worst)


def _norm_error(a: np.ndarray[Any, np.dtype[np.float64]], b: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    difference, size = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    if size:
        return difference / size
    return np.inf if difference else 0.0
