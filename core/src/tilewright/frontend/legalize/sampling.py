"""GridSample, RoiAlign, MaxRoiPool and DeformConv: reads at positions that are computed from data.

Interpolation is a reduction over taps: along each dimension 2 (linear) or 4 (cubic) neighbours of the position, each
weighted by its distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from tilewright.frontend.legalize.builder import Builder, Tensor, wide, within
from tilewright.frontend.legalize.convolution import add_channel_bias
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.pooling import lowest
from tilewright.frontend.legalize.table import Family
from tilewright.frontend.legalize.windows import window_of
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, apply, as_expr, cast, const, maximum, minimum, select

rule = Family()


def _near(position: Expr, tap: Expr, taps: int) -> tuple[Expr, Expr]:
    """Neighbour number `tap` of a position, as an integer, and its distance."""
    base = apply("floor", position)
    at = base + cast(tap, position.dtype) - float(taps // 2 - 1)
    return cast(at, "int64"), apply("abs", position - at)


def _linear(distance: Expr) -> Expr:
    return maximum(1.0 - distance, 0.0)


def _cubic(d: Expr) -> Expr:
    """Cubic convolution with the parameter -0.75 (Keys, 1981)."""
    near = (1.25 * d - 2.25) * d * d + 1.0
    far = ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0
    return select(d <= 1.0, near, select(d < 2.0, far, const(0.0, d.dtype)))


def _reflected(x: Expr, low: float, high: float) -> Expr:
    """`x` mirrored at the two borders until it lies between them."""
    width = high - low
    if width <= 0:
        return x * 0.0 + low
    turn = apply("floormod", x - low, 2.0 * width)
    return low + width - apply("abs", turn - width)


@rule("GridSample")
def _grid_sample(b: Builder, node: Node) -> Tensor:
    x, grid, out = node[0], node[1], node.out()
    size, rank = x.shape[2:], x.rank - 2
    mode = str(node.attr("mode", "linear")).removeprefix("bi")
    padding, aligned = node.attr("padding_mode", "zeros"), bool(node.attr("align_corners", 0))
    carried = dtypes.accumulator(grid.dtype)

    def borders(d: int) -> tuple[float, float]:
        return (0.0, size[d] - 1.0) if aligned else (-0.5, size[d] - 0.5)

    def position(n: Expr, at: Sequence[Expr], d: int) -> Expr:
        given = cast(grid[(n, *at, as_expr(rank - 1 - d))], carried)
        found = (given + 1.0) / 2.0 * (size[d] - 1.0) if aligned else ((given + 1.0) * float(size[d]) - 1.0) / 2.0
        if mode == "nearest":
            found = apply("round", found)
        if padding == "border":
            return minimum(maximum(found, 0.0), size[d] - 1.0)
        return _reflected(found, *borders(d)) if padding == "reflection" else found

    def pixel(n: Expr, c: Expr, where: Sequence[Expr]) -> Expr:
        if padding == "border":
            return x[(n, c, *(minimum(maximum(at, 0), size[d] - 1) for d, at in enumerate(where)))]
        if padding == "reflection":
            mirrored = [
                minimum(maximum(cast(_reflected(cast(at, carried), *borders(d)), "int64"), 0), size[d] - 1)
                for d, at in enumerate(where)
            ]
            return x[(n, c, *mirrored)]
        inside = reduce(lambda p, q: p & q, (within(at, size[d]) for d, at in enumerate(where)))
        return x.guarded(inside, (n, c, *where))

    shape = out.static_shape()
    if mode == "nearest":

        def nearest(n: Expr, c: Expr, *at: Expr) -> Expr:
            return pixel(n, c, [cast(position(n, at, d), "int64") for d in range(rank)])

        return b.compute(out.dtype, shape, nearest)
    taps, kernel = (4, _cubic) if mode == "cubic" else (2, _linear)

    def body(n: Expr, c: Expr, *rest: Expr) -> Expr:
        at, tap = rest[:rank], rest[rank:]
        near = [_near(position(n, at, d), tap[d], taps) for d in range(rank)]
        value = cast(pixel(n, c, [where for where, _ in near]), dtypes.accumulator(x.dtype))
        return reduce(lambda total, w: total * cast(kernel(w[1]), total.dtype), near, value)

    return b.reduce(out.dtype, shape, (taps,) * rank, "sum", body)


def bilinear(read: Callable[[Expr, Expr], Expr], y: Expr, x: Expr, ty: Expr, tx: Expr) -> Expr:
    """Tap (ty, tx) of the bilinear interpolation at (y, x), weighted."""
    (row, dy), (column, dx) = _near(y, ty, 2), _near(x, tx, 2)
    return read(row, column) * _linear(dy) * _linear(dx)


@rule("RoiAlign")
def _roi_align(b: Builder, node: Node) -> Tensor:
    x, rois, batches, out = node[0], node[1], node[2], node.out()
    height, width = x.shape[2:]
    shape = out.static_shape()
    ratio, scale = int(node.attr("sampling_ratio", 0)), float(node.attr("spatial_scale", 1.0))
    if ratio == 0:
        raise node.unsupported(
            "chooses its number of samples from the data (sampling_ratio = 0).",
            "Export it with a fixed sampling_ratio.",
        )
    half = node.version >= 16 and node.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    carried = dtypes.accumulator(x.dtype)

    def sample(n: Expr, bin_: Expr, step: Expr, d: int) -> Expr:
        """Position of a sample along dimension d (0: height)."""
        offset = 0.5 if half else 0.0
        start = cast(rois[n, 1 - d], carried) * scale - offset
        extent = cast(rois[n, 3 - d], carried) * scale - offset - start
        if not half:
            extent = maximum(extent, 1.0)
        size = extent / float(shape[2 + d])
        return start + cast(bin_, carried) * size + (cast(step, carried) + 0.5) * size / float(ratio)

    def tap(n: Expr, c: Expr, y: Expr, x_: Expr, ty: Expr, tx: Expr) -> Expr:
        valid = (y >= -1.0) & (y <= float(height)) & (x_ >= -1.0) & (x_ <= float(width))
        row, column = (minimum(maximum(v, 0.0), m - 1.0) for v, m in ((y, height), (x_, width)))

        def pixel(i: Expr, j: Expr) -> Expr:
            i, j = (minimum(maximum(v, 0), m - 1) for v, m in ((i, height), (j, width)))
            return wide(x[cast(batches[n], "int64"), c, i, j])

        return select(valid, bilinear(pixel, row, column, ty, tx), const(0, carried))

    largest = node.attr("mode", "avg") == "max"

    def body(n: Expr, c: Expr, p: Expr, q: Expr, sy: Expr, sx: Expr, ty: Expr, tx: Expr) -> Expr:
        found = tap(n, c, sample(n, p, sy, 0), sample(n, q, sx, 1), ty, tx)
        return found if largest else found / float(ratio * ratio)

    return b.reduce(out.dtype, shape, (ratio, ratio, 2, 2), "max" if largest else "sum", body)


def _rounded(x: Expr) -> Expr:
    """The nearest integer as int64, halves away from zero."""
    size = apply("abs", x)
    below = apply("floor", size)
    whole = cast(below + cast(size - below >= 0.5, x.dtype), "int64")
    return select(x < 0.0, -whole, whole)


@rule("MaxRoiPool")
def _max_roi_pool(b: Builder, node: Node) -> Tensor:
    """The maximum over a rectangle, found along its rows first: first over the bin's height, then over its width."""
    x, rois, out = node[0], node[1], node.out()
    shape, scale = out.static_shape(), float(node.attr("spatial_scale", 1.0))
    carried = dtypes.accumulator(x.dtype)

    def ends(n: Expr, bin_: Expr, d: int) -> tuple[Expr, Expr]:
        """First position of a bin along dimension d (0: height), and the one after its last, both in the image."""
        low, high = (_rounded(cast(rois[n, column], carried) * scale) for column in (2 - d, 4 - d))
        size = cast(maximum(high - low + 1, 1), carried) / float(shape[2 + d])
        first = cast(apply("floor", cast(bin_, carried) * size), "int64") + low
        last = cast(apply("ceil", cast(bin_ + 1, carried) * size), "int64") + low
        return maximum(first, 0), minimum(last, x.shape[2 + d])

    def inside(n: Expr, bin_: Expr, d: int, at: Expr) -> Expr:
        first, last = ends(n, bin_, d)
        return (at >= first) & (at < last)

    least = lowest(x.dtype)

    def over_height(n: Expr, c: Expr, p: Expr, column: Expr, row: Expr) -> Expr:
        return x.guarded(inside(n, p, 0, row), (cast(rois[n, 0], "int64"), c, row, column), least)

    def over_width(n: Expr, c: Expr, p: Expr, q: Expr, column: Expr) -> Expr:
        return tall.guarded(inside(n, q, 1, column), (n, c, p, column), least)

    def unless_empty(n: Expr, c: Expr, p: Expr, q: Expr) -> Expr:
        (top, bottom), (left, right) = ends(n, p, 0), ends(n, q, 1)
        return select((top < bottom) & (left < right), found[n, c, p, q], const(0, x.dtype))

    tall = b.reduce(x.dtype, (*shape[:3], x.shape[3]), x.shape[2:3], "max", over_height, "tall")
    found = b.reduce(x.dtype, shape, x.shape[3:], "max", over_width, "found")
    return b.compute(x.dtype, shape, unless_empty)


@rule("DeformConv")
def _deform_conv(b: Builder, node: Node) -> Tensor:
    x, w, offset, bias, mask, out = node[0], node[1], node[2], node.get(3), node.get(4), node.out()
    if x.rank != 4:
        raise node.unsupported(f"has {x.rank - 2} spatial dimensions.", "Only two are supported.")
    groups, offset_groups = int(node.attr("group", 1)), int(node.attr("offset_group", 1))
    shape = out.static_shape()
    kh, kw = w.shape[2:]
    window = window_of(node, x.shape[2:], (kh, kw), shape[2:])
    depth, per_group = w.shape[1], w.shape[0] // groups
    per_offset = x.shape[1] // offset_groups
    carried = dtypes.accumulator(x.dtype)

    def body(n: Expr, g: Expr, m: Expr, p: Expr, q: Expr, c: Expr, i: Expr, j: Expr, ty: Expr, tx: Expr) -> Expr:
        channel = g * depth + c
        place = (channel // per_offset * kh + i) * kw + j
        at = window.position((p, q), (i, j))
        y, z = (cast(at[d], carried) + cast(offset[n, place * 2 + d, p, q], carried) for d in range(2))

        def pixel(row: Expr, column: Expr) -> Expr:
            return wide(x.guarded(window.inside((row, column)), (n, channel, row, column)))

        value = bilinear(pixel, y, z, ty, tx) * wide(w[g * per_group + m, c, i, j])
        return value if mask is None else value * cast(mask[n, place, p, q], carried)

    spatial = (shape[0], groups, per_group, *shape[2:])
    product = b.domain(
        [(out.dtype if bias is None else carried, shape)],
        spatial,
        (depth, kh, kw, 2, 2),
        body,
        how="sum",
        index=lambda n, g, m, p, q: (n, g * per_group + m, p, q),
        name="product",
    )[0]
    return product if bias is None else add_channel_bias(b, product, bias, out.dtype)
