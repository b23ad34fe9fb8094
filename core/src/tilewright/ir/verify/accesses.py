"""Law: a read or a write touches elements that exist, wherever its guard holds."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tilewright.interpret.evaluate import evaluate
from tilewright.ir.bounds import Bounds
from tilewright.ir.expr import Const, Expr, loads
from tilewright.ir.ops import Axis, Value
from tilewright.ir.verify.laws import Place, show
from tilewright.ir.verify.ranges import Ranges, conjuncts, is_affine

LAW = "an access whose guard holds lies within its value"
_SAMPLES = 256
Column = npt.NDArray[np.int64]


def check_in_range(
    value: Value,
    index: Sequence[Expr],
    guard: Expr | None,
    axes: Sequence[Axis],
    symbols: Bounds,
    place: Place,
) -> None:
    """Refuses an access that is out of range somewhere, and one without a guard that cannot be proven to be in range.

    A guarded or data-dependent index that bounds cannot decide is tried at the corners of the domain and at random
    points; with no counterexample it passes.
    """
    if any(isinstance(x, Const) and not x.value for x in conjuncts(guard)):
        return  # the guard never holds
    ranges = Ranges(axes, symbols, guard)
    for dimension, (expr, extent) in enumerate(zip(index, value.shape, strict=True)):
        if ranges.inside(expr, extent):
            continue
        there = place.at(f"dimension {dimension}")
        if ranges.outside(expr, extent):
            found = ranges.interval(expr)
            raise there.broken(LAW, f"{show(expr)} lies in [{found.low}, {found.high}], the extent is {show(extent)}")
        if loads(expr, guard):
            continue
        counterexample = _counterexample(expr, extent, guard, axes, symbols)
        if counterexample:
            raise there.broken(LAW, f"{show(expr)} is out of range of extent {show(extent)} at {counterexample}")
        if guard is None and is_affine(expr):
            raise there.broken(
                LAW, f"cannot prove that {show(expr)} is below the extent {show(extent)}, and there is no guard"
            )


def _counterexample(expr: Expr, extent: Expr, guard: Expr | None, axes: Sequence[Axis], symbols: Bounds) -> str:
    points = _points(tuple(axes), tuple((name, x.low, x.high) for name, x in symbols.items()))
    if points is None:
        return ""
    at, limit = evaluate(expr, points), evaluate(extent, points)
    bad = (at < 0) | (at >= limit)
    if guard is not None:
        bad = bad & evaluate(guard, points)
    where = np.flatnonzero(np.broadcast_to(bad, (_SAMPLES,)))
    if not where.size:
        return ""
    return ", ".join(f"{name} = {int(x[where[0]])}" for name, x in points.items())


@functools.lru_cache(maxsize=64)
def _points(axes: tuple[Axis, ...], symbols: tuple[tuple[str, int, int], ...]) -> dict[str, Column] | None:
    """Points of the domain, the first and the last one among them; half of the coordinates are at an end."""
    random = np.random.default_rng(0)
    points: dict[str, Column] = {}
    for name, low, high in symbols:
        points[name] = _column(random, low, np.full(_SAMPLES, high - low + 1))
    for axis in axes:
        size = np.broadcast_to(evaluate(axis.extent, points), (_SAMPLES,))
        if (size <= 0).any():
            return None
        points[axis.name] = _column(random, 0, size)
    return points


def _column(random: np.random.Generator, low: int, size: Column) -> Column:
    """Numbers `low <= x < low + size`."""
    inner = (random.random(_SAMPLES) * size).astype(np.int64)
    ends = np.where(random.random(_SAMPLES) < 0.5, 0, size - 1)
    chosen = np.where(random.random(_SAMPLES) < 0.5, inner, ends)
    chosen[0], chosen[1] = 0, size[1] - 1
    return low + chosen
