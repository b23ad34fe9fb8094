"""Concat, Split, Slice, Pad, Tile and the like: operators that copy elements to places known at compile time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilewright.frontend.extents import range_count, slice_bounds
from tilewright.frontend.fold import slice_range
from tilewright.frontend.legalize.builder import Builder, Tensor, within
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.ir.expr import Expr, Extent, apply, as_expr, as_extent, cast, const, maximum, minimum, select

rule = Family()


@rule("Concat")
def _concat(b: Builder, node: Node) -> Tensor:
    parts = [x for x in node.inputs if x is not None]
    axis = node.axis(parts[0].rank, 1)
    parts = [x for x in parts if x.extents[axis] != 0] or parts[:1]
    for d in range(parts[0].rank):
        if d != axis:
            b.same(*(x.extents[d] for x in parts))
    return concat(b, parts, axis)


def concat(b: Builder, parts: Sequence[Tensor], axis: int, name: str = "") -> Tensor:
    """The tensors one after the other along `axis`: one operator whose reads are guarded by their ranges."""
    if len(parts) == 1:
        return parts[0]
    starts: list[Extent] = [0]
    for x in parts:
        starts.append(b.settled(as_extent(as_expr(starts[-1]) + x.extents[axis])))
    shape = [starts[-1] if d == axis else n for d, n in enumerate(parts[0].extents)]

    def body(*i: Expr) -> Expr:
        at = i[axis]

        def part(n: int) -> Expr:
            inside = None
            first, last = starts[n], starts[n + 1]
            for condition in ([at >= first] if n else []) + ([at < last] if n + 1 < len(parts) else []):
                inside = condition if inside is None else inside & condition
            return parts[n].guarded(inside, (*i[:axis], at - starts[n], *i[axis + 1 :]))

        values = [part(n) for n in range(len(parts))]
        result = values[-1]
        for n in range(len(parts) - 2, -1, -1):
            result = select(at < starts[n + 1], values[n], result)
        return result

    return b.compute(parts[0].dtype, shape, body, name)


@rule("Split")
def _split(b: Builder, node: Node) -> list[Tensor | None]:
    x = node[0]
    axis = node.axis(x.rank, 0)
    sizes = node.ints(1, "sizes") if node.version >= 13 else node.attr("split")
    count = len(node.op.outputs)
    if not sizes:
        extent = x.extents[axis]
        if isinstance(extent, Expr):
            sizes = [node.extents(0)[axis]] * count
        else:
            part = math.ceil(extent / count)
            sizes = [part] * (count - 1) + [extent - part * (count - 1)]
    starts = [sum(sizes[:n]) for n in range(count)]
    return [
        slice_along(b, x, axis, start, size) if node.wants(n) else None
        for n, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]


def slice_along(b: Builder, x: Tensor, axis: int, start: Extent, size: Extent, step: int = 1, name: str = "") -> Tensor:
    """`size` elements of `x` along `axis` from `start`."""
    if start == 0 and size == x.extents[axis] and step == 1:
        return x
    shape = [size if d == axis else n for d, n in enumerate(x.extents)]
    return b.compute(x.dtype, shape, lambda *i: x[(*i[:axis], i[axis] * step + start, *i[axis + 1 :])], name)


@rule("Slice")
def _slice(b: Builder, node: Node) -> Tensor:
    x, out = node[0], node.out()
    first, stride = _symbolic_starts(b, node) or _starts(node)
    if out.extents == x.extents and all(s == 1 for s in stride):
        return x

    def body(*i: Expr) -> Expr:
        return x[tuple(at * s + f for at, s, f in zip(i, stride, first, strict=True))]

    return b.compute(x.dtype, out.extents, body)


def _starts(node: Node) -> tuple[list[Extent], list[int]]:
    """First position and step of a slice along each dimension."""
    x = node[0]
    if node.version >= 10:
        starts, ends = node.ints(1, "starts") or [], node.ints(2, "ends") or []
        axes, steps = node.ints(3, "axes"), node.ints(4, "steps")
    else:
        starts, ends, axes, steps = list(node.attr("starts")), list(node.attr("ends")), node.attr("axes"), None
    axes = list(range(len(starts))) if axes is None else [node.normal_axis(a, x.rank) for a in axes]
    first: list[Extent] = [0] * x.rank
    stride = [1] * x.rank
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        first[axis], stride[axis] = slice_range(start, end, step, x.shape[axis])[0], step
    return first, stride


def _symbolic_starts(b: Builder, node: Node) -> tuple[list[Extent], list[int]] | None:
    """The same where an extent or a bound is symbolic; None where none is."""
    if node[0].value.is_static and all(x is None or x.numbers is None for x in node.inputs[1:]):
        return None
    found = slice_bounds(node.symbolic(b.symbols))
    return None if found is None else ([first for first, _, _ in found], [step for _, step, _ in found])


@rule("Pad")
def _pad(b: Builder, node: Node) -> Tensor:
    x, out, mode = node[0], node.out(), node.attr("mode", "constant")
    pads = (node.ints(1, "pads") if node.version >= 11 else list(node.attr("pads"))) or []
    value = node.get(2) if node.version >= 11 else None
    axes = node.ints(3, "axes")
    axes = list(range(x.rank)) if axes is None else [node.normal_axis(a, x.rank) for a in axes]
    before = [0] * x.rank
    for n, axis in enumerate(axes):
        before[axis] = pads[n]
    if not any(pads):
        return x
    shape = out.extents
    if mode != "constant":

        def moved(*i: Expr) -> Expr:
            return x[tuple(_outside(at - p, n, mode) for at, p, n in zip(i, before, x.shape, strict=True))]

        return b.compute(x.dtype, shape, moved)
    known = float(node.attr("value", 0.0)) if value is None else value.scalar()

    def body(*i: Expr) -> Expr:
        index = tuple(at - p for at, p in zip(i, before, strict=True))
        inside: Expr = const(True, "bool")
        for at, n in zip(index, x.extents, strict=True):
            inside = inside & within(at, n)
        inside = b.simplified(inside)
        if known is not None or value is None:
            return x.guarded(inside, index, 0 if known is None else known)
        return select(inside, x.guarded(inside, index), value[tuple(as_expr(0) for _ in value.shape)])

    return b.compute(x.dtype, shape, body)


def _outside(at: Expr, extent: int, mode: str) -> Expr:
    """The element of `0 … extent-1` that stands at a position outside of it."""
    last = extent - 1
    if mode == "edge":
        return minimum(maximum(at, 0), last)
    if mode == "wrap":
        return at % extent
    if last == 0:
        return at * 0
    # One mirroring at each end if the padding is shorter than the dimension, otherwise periodic.
    return last - apply("abs", last - at % (2 * last))


@rule("Expand")
def _expand(b: Builder, node: Node) -> Tensor:
    x, out = node[0], node.out()
    return x if x.extents == out.extents else b.compute(x.dtype, out.extents, lambda *i: x.at(i))


@rule("Tile")
def _tile(b: Builder, node: Node) -> Tensor:
    x, out = node[0], node.out()
    repeats = node.ints(1, "repeats") or []
    if all(n == 1 for n in repeats):
        return x
    # An output dimension is a pair of axes: repetition and element.
    extents = [n for pair in zip(repeats, x.extents, strict=True) for n in pair]
    return b.domain(
        [(x.dtype, out.extents)],
        extents,
        (),
        lambda *i: x[i[1::2]],
        index=lambda *i: [r * n + at for r, n, at in zip(i[::2], x.extents, i[1::2], strict=True)],
    )[0]


@rule("DepthToSpace")
def _depth_to_space(b: Builder, node: Node) -> Tensor:
    x, size = node[0], int(node.attr("blocksize"))
    batch, channels, height, width = x.shape
    depth = channels // (size * size)
    by_block = node.attr("mode", "DCR") == "DCR"

    def source(n: Expr, c: Expr, h: Expr, p: Expr, w: Expr, q: Expr) -> Expr:
        channel = (p * size + q) * depth + c if by_block else (c * size + p) * size + q
        return x[n, channel, h, w]

    return b.domain(
        [(x.dtype, node.shape())],
        (batch, depth, height, size, width, size),
        (),
        source,
        index=lambda n, c, h, p, w, q: (n, c, h * size + p, w * size + q),
    )[0]


@rule("SpaceToDepth")
def _space_to_depth(b: Builder, node: Node) -> Tensor:
    x, size = node[0], int(node.attr("blocksize"))
    batch, channels, height, width = x.shape
    by_block = node.attr("mode", "DCR") == "DCR"

    def channel(p: Expr, q: Expr, c: Expr) -> Expr:
        return (p * size + q) * channels + c if by_block else (c * size + p) * size + q

    return b.domain(
        [(x.dtype, node.shape())],
        (batch, size, size, channels, height // size, width // size),
        (),
        lambda n, p, q, c, h, w: x[n, c, h * size + p, w * size + q],
        index=lambda n, p, q, c, h, w: (n, channel(p, q, c), h, w),
    )[0]


@rule("Trilu")
def _trilu(b: Builder, node: Node) -> Tensor:
    x, offset, upper = node[0], node.get(1), bool(node.attr("upper", 1))

    def body(*i: Expr) -> Expr:
        shift: Expr = as_expr(0) if offset is None else cast(offset[tuple(as_expr(0) for _ in offset.shape)], "int64")
        distance = i[-1] - i[-2]
        kept = distance >= shift if upper else distance <= shift
        return select(kept, x[i], const(0, x.dtype))

    return b.compute(x.dtype, x.extents, body)


@rule("EyeLike")
def _eye_like(b: Builder, node: Node) -> Tensor:
    out, shift = node.out(), int(node.attr("k", 0))

    def body(i: Expr, j: Expr) -> Expr:
        return select(apply("eq", j - i, shift), const(1, out.dtype), const(0, out.dtype))

    return b.compute(out.dtype, out.extents, body)


@rule("ConstantOfShape")
def _constant_of_shape(b: Builder, node: Node) -> Tensor:
    if node.numbers(0) is None:
        node.ints(0, "shape")
    out, given = node.out(), node.attr("value")
    fill = const(0 if given is None else given.reshape(()).item(), out.dtype)
    return b.compute(out.dtype, out.extents, lambda *i: fill)


@rule("Range")
def _range(b: Builder, node: Node) -> Tensor:
    out = node.out()
    found = range_count(node.symbolic(b.symbols))
    if found is None:
        raise node.unsupported("counts up to what is only known at run time.", "Bind the input that it comes from.")
    start, step, _ = found
    return b.compute(out.dtype, out.extents, lambda i: cast(i * step + start, out.dtype))
