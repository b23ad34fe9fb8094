"""Conv in any number of spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.frontend.legalize.builder import Builder, Tensor, wide
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.frontend.legalize.windows import Window, window_of
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, Extent, as_expr, cast, const, select

rule = Family()


@rule("Conv")
def _conv(b: Builder, node: Node) -> Tensor:
    x, w, bias = node[0], node[1], node.get(2)
    out = node.out()
    window = window_of(node, x.extents[2:], w.shape[2:], out.extents[2:])
    stored = out.dtype if bias is None else dtypes.accumulator(out.dtype)
    product = convolve(b, x, w, window, int(node.attr("group", 1)), out.extents, stored)
    return product if bias is None else add_channel_bias(b, product, bias, out.dtype)


def convolve(
    b: Builder,
    x: Tensor,
    w: Tensor,
    window: Window,
    groups: int,
    shape: tuple[Extent, ...],
    dtype: str,
    multiply: Callable[[Expr, Expr, Expr, Expr], Expr] = lambda pixel, weight, channel, inside: (
        wide(pixel) * wide(weight)
    ),
    name: str = "product",
) -> Tensor:
    """Grouped convolution of `x [N, C, …]` with `w [M, C/groups, …]` into `shape [N, M, …]`, stored as `dtype`.

    Axes: batch, group (only when there are several), channel of the group, output positions; input channel of the
    group, kernel positions.

    Args:
        multiply: the summand, from pixel, weight, output channel and whether the pixel is inside the input.
    """
    per_group, depth = w.shape[0] // groups, w.shape[1]
    many = (groups,) if groups > 1 else ()

    def split(i: tuple[Expr, ...]) -> tuple[Expr, Expr, Expr, tuple[Expr, ...]]:
        group = i[1] if many else as_expr(0)
        return i[0], group, i[1 + len(many)], i[2 + len(many) :]

    def body(*i: Expr) -> Expr:
        batch, group, channel, rest = split(i)
        at, source, offset = rest[: window.rank], rest[window.rank], rest[window.rank + 1 :]
        position = window.position(at, offset)
        inside = b.simplified(window.inside(position))
        pixel = x.guarded(inside, (batch, group * depth + source, *position))
        number = group * per_group + channel
        return multiply(pixel, w[(number, source, *offset)], number, inside)

    def target(*i: Expr) -> tuple[Expr, ...]:
        batch, group, channel, at = split(i)
        return batch, group * per_group + channel, *at

    spatial = (shape[0], *many, per_group, *shape[2:])
    return b.domain([(dtype, shape)], spatial, (depth, *window.kernel), body, how="sum", index=target, name=name)[0]


def integer_convolution(
    b: Builder, node: Node, x: Tensor, w: Tensor, x_zero: Tensor | None, w_zero: Tensor | None, name: str
) -> Tensor:
    """int32 convolution of quantised tensors; the padding counts as the zero point of `x`."""
    shape = node.extents()
    window = window_of(node, x.extents[2:], w.shape[2:], shape[2:])

    def multiply(pixel: Expr, weight: Expr, channel: Expr, inside: Expr) -> Expr:
        left, right = cast(pixel, "int32"), cast(weight, "int32")
        if x_zero is not None:
            shifted = left - cast(x_zero[tuple(as_expr(0) for _ in x_zero.shape)], "int32")
            left = select(inside, shifted, const(0, "int32"))
        if w_zero is not None:
            index = tuple(as_expr(0) if w_zero.size == 1 else channel for _ in w_zero.shape)
            right = right - cast(w_zero[index], "int32")
        return left * right

    return convolve(b, x, w, window, int(node.attr("group", 1)), shape, "int32", multiply, name)


def add_channel_bias(b: Builder, product: Tensor, bias: Tensor, dtype: str) -> Tensor:
    """`product [N, M, …] + bias [M]`, rounded to `dtype` once."""
    return b.compute(dtype, product.extents, lambda *i: product[i] + cast(bias[i[1]], product.dtype))
