"""Conv and ConvTranspose in any number of spatial dimensions."""

from __future__ import annotations

from tilewright.frontend.legalize.builder import Builder, Tensor, wide
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.frontend.legalize.windows import Window, window_of
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, as_expr, cast

rule = Family()


@rule("Conv")
def _conv(b: Builder, node: Node) -> Tensor:
    x, w, bias = node[0], node[1], node.get(2)
    out = node.out()
    window = window_of(node, x.shape[2:], w.shape[2:], out.static_shape()[2:])
    stored = out.dtype if bias is None else dtypes.accumulator(out.dtype)
    product = convolve(b, x, w, window, int(node.attr("group", 1)), out.static_shape(), stored)
    return product if bias is None else add_channel_bias(b, product, bias, out.dtype)


def convolve(
    b: Builder, x: Tensor, w: Tensor, window: Window, groups: int, shape: tuple[int, ...], dtype: str
) -> Tensor:
    """Grouped convolution of `x [N, C, …]` with `w [M, C/groups, …]` into `shape [N, M, …]`, stored as `dtype`.

    Axes: batch, group (only when there are several), channel of the group, output positions; input channel of the
    group, kernel positions.
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
        pixel = x.guarded(window.inside(position), (batch, group * depth + source, *position))
        return wide(pixel) * wide(w[(group * per_group + channel, source, *offset)])

    def target(*i: Expr) -> tuple[Expr, ...]:
        batch, group, channel, at = split(i)
        return batch, group * per_group + channel, *at

    spatial = (shape[0], *many, per_group, *shape[2:])
    return b.domain(
        [(dtype, shape)], spatial, (depth, *window.kernel), body, how="sum", index=target, name="product"
    )[0]


def add_channel_bias(b: Builder, product: Tensor, bias: Tensor, dtype: str) -> Tensor:
    """`product [N, M, …] + bias [M]`, rounded to `dtype` once."""
    return b.compute(dtype, product.shape, lambda *i: product[i] + cast(bias[i[1]], product.dtype))
