"""Pools: reductions over windows whose reads are guarded by the padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilewright.frontend.legalize.builder import Builder, Tensor, wide
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.frontend.legalize.windows import Window, window_of
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, Scalar, apply, as_expr, cast, ceil_div, const, maximum, minimum

rule = Family()


def lowest(dtype: str) -> Scalar:
    """The identity of the maximum."""
    return -math.inf if dtypes.is_float(dtype) else dtypes.integer_range(dtype)[0]


def _window(node: Node) -> Window:
    x = node[0]
    return window_of(node, x.shape[2:], node.attr("kernel_shape"), node.out().static_shape()[2:])


@rule("MaxPool")
def _max_pool(b: Builder, node: Node) -> Tensor:
    x, window = node[0], _window(node)
    if node.wants(1):
        raise node.unsupported("returns the indices of its maxima.", "Export it without the second output.")

    def body(n: Expr, c: Expr, *rest: Expr) -> Expr:
        position = window.position(rest[: window.rank], rest[window.rank :])
        return x.guarded(window.inside(position), (n, c, *position), lowest(x.dtype))

    return b.reduce(x.dtype, node.out().static_shape(), window.kernel, "max", body)


@rule("AveragePool")
def _average_pool(b: Builder, node: Node) -> Tensor:
    x, window = node[0], _window(node)
    shape = node.out().static_shape()
    padded = bool(node.attr("count_include_pad", 0))

    def body(n: Expr, c: Expr, *rest: Expr) -> Expr:
        position = window.position(rest[: window.rank], rest[window.rank :])
        return wide(x.guarded(window.inside(position), (n, c, *position)))

    total = b.reduce(dtypes.accumulator(x.dtype), shape, window.kernel, "sum", body, "total")

    def average(*i: Expr) -> Expr:
        count: Expr = as_expr(1)
        for d, at in enumerate(i[2:]):
            count = count * _valid(window, d, at, padded)
        return total[i] / cast(b.simplified(count), total.dtype)

    return b.compute(x.dtype, shape, average)


def _valid(window: Window, dim: int, out: Expr, padded: bool) -> Expr:
    """How many elements of the window at `out` count: those inside the input, or inside input and padding."""
    step, size = window.dilations[dim], window.kernel[dim]
    start = window.start(dim, out)
    low = -window.begin[dim] if padded else 0
    high = window.extents[dim] + (window.end[dim] if padded else 0)
    first = maximum(ceil_div(low - start, step), 0)
    last = minimum(ceil_div(high - start, step), size)
    return last - first


@rule("GlobalAveragePool")
def _global_average_pool(b: Builder, node: Node) -> Tensor:
    x = node[0]
    total = _over_positions(b, x, "sum", dtypes.accumulator(x.dtype), "total", widened=True)
    count = math.prod(x.shape[2:])
    return b.compute(x.dtype, total.shape, lambda *i: total[i] / float(count))


@rule("GlobalMaxPool")
def _global_max_pool(b: Builder, node: Node) -> Tensor:
    return _over_positions(b, node[0], "max", node[0].dtype, "", widened=False)


def _over_positions(b: Builder, x: Tensor, how: str, dtype: str, name: str, widened: bool) -> Tensor:
    positions: Sequence[int] = x.shape[2:]
    shape = (*x.shape[:2], *(1 for _ in positions))

    def body(n: Expr, c: Expr, *rest: Expr) -> Expr:
        found = x[(n, c, *rest[len(positions) :])]
        return wide(found) if widened else found

    return b.reduce(dtype, shape, positions, how, body, name)


@rule("LpPool", "GlobalLpPool")
def _lp_pool(b: Builder, node: Node) -> Tensor:
    x, power = node[0], float(node.attr("p", 2))
    shape = node.out().static_shape()
    whole = node.op.op_type == "GlobalLpPool"
    rank = x.rank - 2
    window = (
        Window(x.shape[2:], x.shape[2:], (1,) * rank, (1,) * rank, (0,) * rank, (0,) * rank)
        if whole
        else _window(node)
    )

    def body(n: Expr, c: Expr, *rest: Expr) -> Expr:
        position = window.position(rest[:rank], rest[rank:])
        found = apply("abs", wide(x.guarded(window.inside(position), (n, c, *position))))
        return found * found if power == 2 else apply("pow", found, const(power, found.dtype))

    total = b.reduce(dtypes.accumulator(x.dtype), shape, window.kernel, "sum", body, "total")
    if power == 2:
        return b.compute(x.dtype, shape, lambda *i: apply("sqrt", total[i]))
    return b.compute(x.dtype, shape, lambda *i: apply("pow", total[i], 1.0 / power))
