"""Resize and Upsample: separable interpolation by tables that are computed at compile time.

Each resized dimension is one operator: `out[i] = sum over taps k of weight[i, k] * x[index[i, k]]`. Nearest
neighbours are a single copy; where they repeat or skip elements evenly the index is an axis, without a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.frontend.legalize.builder import Builder, Tensor, wide
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, Extent, apply, as_expr, cast, const, select
from tilewright.ir.ops import Value

rule = Family()

Array = npt.NDArray[Any]


@attrs.frozen
class Sampling:
    """How one dimension is resampled.

    Args:
        size: extent of the input.
        out: extent of the output.
        scale: factor between them, which may differ slightly from `out / size`.
        roi: start and end of the region of interest, in parts of the input.
    """

    size: int
    out: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)

    def positions(self, mode: str) -> Array:
        """Where each output element lies in the input."""
        x = np.arange(self.out, dtype=np.float64)
        width = self.scale * self.size
        match mode:
            case "half_pixel":
                return (x + 0.5) / self.scale - 0.5
            case "pytorch_half_pixel":
                return np.full_like(x, -0.5) if width == 1 else (x + 0.5) / self.scale - 0.5
            case "half_pixel_symmetric":
                return self.size / 2 * (1 - self.out / width) + (x + 0.5) / self.scale - 0.5
            case "align_corners":
                return np.zeros_like(x) if width == 1 else x * (self.size - 1) / (width - 1)
            case "asymmetric":
                return x / self.scale
            case "tf_half_pixel_for_nn":
                return (x + 0.5) / self.scale
            case "tf_crop_and_resize":
                start, end = (r * (self.size - 1) for r in self.roi)
                return np.full_like(x, (start + end) / 2) if width == 1 else start + x * (end - start) / (width - 1)
        raise ValueError(mode)


@rule("Resize", since=11)
def _resize(b: Builder, node: Node) -> Tensor:
    x, out = node[0], node.out()
    axes = [node.normal_axis(a, x.rank) for a in node.attr("axes", tuple(range(x.rank)))]
    roi, scales = node.constant(1, "region of interest"), node.constant(2, "scales")
    sizes = node.numbers(3)
    if sizes is None:
        node.ints(3, "sizes")
    factors = _factors(node, axes, None if sizes is None else list(sizes.flat), scales)
    mode, transformation = node.attr("mode", "nearest"), node.attr("coordinate_transformation_mode", "half_pixel")
    cropped = transformation == "tf_crop_and_resize" and roi is not None and roi.size > 0
    samplings = {}
    for n, axis in enumerate(axes):
        if isinstance(x.extents[axis], Expr) or isinstance(out.extents[axis], Expr):
            if x.extents[axis] != out.extents[axis] or factors[n] != 1.0 or cropped:
                raise node.unsupported(
                    f"resizes the symbolic extent {x.extents[axis]!r}.", "Fix it, for example --shape height=224."
                )
            continue
        part = (float(roi[n]), float(roi[n + len(axes)])) if cropped and roi is not None else (0.0, 1.0)
        samplings[axis] = Sampling(_size(x, axis), _size(out, axis), factors[n], part)
    same = [a for a, s in samplings.items() if s.size == s.out and math.isclose(s.scale, 1.0) and s.roi == (0.0, 1.0)]
    active = {a: s for a, s in samplings.items() if a not in same}
    if not active:
        return x
    if mode == "nearest":
        return _nearest(b, x, active, transformation, str(node.attr("nearest_mode", "round_prefer_floor")))
    kernel = _linear if mode == "linear" else _cubic(float(node.attr("cubic_coeff_a", -0.75)))
    reach = 1 if mode == "linear" else 2
    result = x
    outside: dict[int, Tensor] = {}
    for axis, sampling in active.items():
        at = sampling.positions(transformation)
        index, weights = _taps(sampling, at, kernel, reach, bool(node.attr("antialias", 0)))
        if node.attr("exclude_outside", 0):
            weights = np.where((index < 0) | (index >= sampling.size), 0.0, weights)
            sums = weights.sum(1, keepdims=True)
            weights = weights / np.where(sums == 0, 1.0, sums)
        if transformation == "tf_crop_and_resize" and ((at < 0) | (at > sampling.size - 1)).any():
            outside[axis] = b.constant((at < 0) | (at > sampling.size - 1), "outside")
        last = axis == list(active)[-1] and not outside
        dtype = out.dtype if last and dtypes.is_float(out.dtype) else _carried(out.dtype)
        result = _weighted(b, result, axis, np.clip(index, 0, sampling.size - 1), weights, dtype)
    if not outside and result.dtype == out.dtype:
        return result
    beyond = float(node.attr("extrapolation_value", 0.0))

    def finish(*i: Expr) -> Expr:
        found = result[i]
        for axis, table in outside.items():
            found = select(table[i[axis]], const(beyond, found.dtype), found)
        return found if dtypes.is_float(out.dtype) else _saturated(found, out.dtype)

    return b.compute(out.dtype, out.extents, finish)


@rule("Upsample")
@rule("Resize", since=10)
def _upsample(b: Builder, node: Node) -> Tensor:
    x, out = node[0], node.out()
    given = node.attr("scales") if node.version < 9 else node.constant(1, "scales")
    scales = [float(s) for s in np.asarray(given).reshape(-1)]
    active = {
        a: Sampling(n, m, s)
        for a, (n, m, s) in enumerate(zip(x.shape, out.static_shape(), scales, strict=True))
        if n != m
    }
    if node.attr("mode", "nearest") == "nearest":
        return _nearest(b, x, active, "asymmetric", "floor")
    result = x
    for axis, sampling in active.items():
        index, weights = _taps(sampling, sampling.positions("asymmetric"), _linear, 1, False)
        dtype = out.dtype if axis == list(active)[-1] else dtypes.accumulator(out.dtype)
        result = _weighted(b, result, axis, np.clip(index, 0, sampling.size - 1), weights, dtype)
    return result


def _size(of: Tensor | Value, axis: int) -> int:
    found = of.extents[axis]
    assert isinstance(found, int)
    return found


def _factors(node: Node, axes: list[int], sizes: list[Extent] | None, scales: Array | None) -> list[float]:
    shape = node[0].extents
    if sizes:
        factors = [
            size / extent if isinstance(size, int) and isinstance(extent, int) else float(size == extent)
            for size, extent in zip(sizes, (shape[a] for a in axes), strict=True)
        ]
        policy = node.attr("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            factors = [min(factors) if policy == "not_larger" else max(factors)] * len(factors)
        return factors
    if scales is None or scales.size == 0:
        raise node.unsupported("has neither sizes nor scales.", "Repair the model.")
    return [float(x) for x in scales]


def _carried(dtype: str) -> str:
    return dtypes.accumulator(dtype) if dtypes.is_float(dtype) else "float32"


def _saturated(x: Expr, dtype: str) -> Expr:
    low, high = dtypes.integer_range(dtype)
    return cast(apply("min", apply("max", x, float(low)), float(high)), dtype)


def _nearest(b: Builder, x: Tensor, active: dict[int, Sampling], transformation: str, rounding: str) -> Tensor:
    """A copy along every resized dimension at once."""
    shape = [active[d].out if d in active else n for d, n in enumerate(x.extents)]
    extents: list[Extent] = []  # the axes of the domain
    parts: list[int] = []  # how many of them each dimension has
    sources: list[Callable[..., Expr]] = []
    for d, kept in enumerate(shape):
        if d not in active:
            extents.append(kept)
            parts.append(1)
            sources.append(lambda i: i)
            continue
        n, size = active[d].out, active[d].size
        at = active[d].positions(transformation)
        found = _rounded(at, rounding)
        table = np.clip(found, 0, size - 1)
        repeat = n // size if size and n % size == 0 else 0
        step = int(table[1] - table[0]) if n > 1 else 1
        if repeat > 1 and np.array_equal(table, np.arange(n) // repeat):
            extents += [size, repeat]
            parts.append(2)
            sources.append(lambda q, p: q)
        elif np.array_equal(table, table[0] + step * np.arange(n)):
            extents.append(n)
            parts.append(1)
            sources.append(lambda i, s=step, f=int(table[0]): i * s + f)
        else:
            positions = b.constant(table.astype(np.int64), "positions")
            extents.append(n)
            parts.append(1)
            sources.append(lambda i, t=positions: t[i])
    starts = np.cumsum([0, *parts])

    def body(*i: Expr) -> Expr:
        return x[tuple(f(*i[s : s + p]) for f, s, p in zip(sources, starts, parts, strict=False))]

    def target(*i: Expr) -> list[Expr]:
        return [i[s] if p == 1 else i[s] * extents[s + 1] + i[s + 1] for s, p in zip(starts, parts, strict=False)]

    return b.domain([(x.dtype, shape)], extents, (), body, index=target)[0]


def _rounded(at: Array, mode: str) -> Array:
    match mode:
        case "round_prefer_floor":
            found = np.ceil(at - 0.5)
        case "round_prefer_ceil":
            found = np.floor(at + 0.5)
        case "floor":
            found = np.floor(at)
        case _:
            found = np.ceil(at)
    return found.astype(np.int64)


def _linear(distance: Array) -> Array:
    return np.maximum(1.0 - np.abs(distance), 0.0)


def _cubic(a: float) -> Callable[[Array], Array]:
    """Cubic convolution with the parameter `a` (Keys, 1981)."""

    def kernel(distance: Array) -> Array:
        d = np.abs(distance)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0.0))

    return kernel


def _taps(
    sampling: Sampling, at: Array, kernel: Callable[[Array], Array], reach: int, antialias: bool
) -> tuple[Array, Array]:
    """Positions and weights `[out, taps]`; positions may lie outside of the input."""
    squeeze = min(sampling.scale, 1.0) if antialias else 1.0
    first = math.floor(-reach / squeeze) + 1
    offsets = np.arange(first, 2 - first)
    base = np.floor(at)
    weights = kernel((offsets[None, :] - (at - base)[:, None]) * squeeze)
    if antialias:
        weights = weights / weights.sum(1, keepdims=True)
    return (base[:, None] + offsets[None, :]).astype(np.int64), weights


def _weighted(b: Builder, x: Tensor, axis: int, index: Array, weights: Array, dtype: str) -> Tensor:
    """`x` resampled along one dimension."""
    carried = _carried(x.dtype)
    where = b.constant(index, "positions")
    factors = b.constant(weights.astype(dtypes.to_numpy(carried)), "weights")
    shape = [index.shape[0] if d == axis else n for d, n in enumerate(x.extents)]
    taps = index.shape[1]

    def tap(i: tuple[Expr, ...], k: Expr | int) -> Expr:
        found = x[(*i[:axis], where[i[axis], k], *i[axis + 1 :])]
        return cast(wide(found), carried) * factors[i[axis], k]

    if taps > 4:
        return b.reduce(dtype, shape, (taps,), "sum", lambda *i: tap(i[:-1], i[-1]), "taps")

    def body(*i: Expr) -> Expr:
        total = tap(i, as_expr(0))
        for k in range(1, taps):
            total = total + tap(i, as_expr(k))
        return total

    return b.compute(dtype, shape, body, "taps")
