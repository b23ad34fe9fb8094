"""Pools: reductions over windows whose reads are guarded by the padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilewright.frontend.legalize.builder import Builder, Tensor, as_float, wide
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.selection import extreme
from tilewright.frontend.legalize.table import Family
from tilewright.frontend.legalize.windows import Window, window_of
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, Scalar, apply, as_expr, cast, ceil_div, const, maximum, minimum, number_of, select

rule = Family()


def lowest(dtype: str) -> Scalar:
    """The identity of the maximum."""
    return -math.inf if dtypes.is_float(dtype) else dtypes.integer_range(dtype)[0]


def _window(node: Node) -> Window:
    x = node[0]
    return window_of(node, x.extents[2:], node.attr("kernel_shape"), node.extents()[2:])


@rule("MaxPool")
def _max_pool(b: Builder, node: Node) -> list[Tensor | None]:
    x, window, shape = node[0], _window(node), node.extents()

    def place(n: Expr, c: Expr, rest: Sequence[Expr]) -> tuple[Expr, ...]:
        return (n, c, *window.position(rest[: window.rank], rest[window.rank :]))

    def body(n: Expr, c: Expr, *rest: Expr) -> Expr:
        at = place(n, c, rest)
        return x.guarded(window.inside(at[2:]), at, lowest(x.dtype))

    if not node.wants(1):
        return [b.reduce(x.dtype, shape, window.kernel, "max", body)]
    if all(k == 1 for k in window.kernel):
        raise node.unsupported("returns the indices of windows of one element.", "Leave out the pool.")
    how = extreme(x.dtype)

    def both(n: Expr, c: Expr, *rest: Expr) -> tuple[Expr, Expr]:
        at = place(n, c, rest)
        number: Expr = as_expr(0)
        for extent, here in zip(x.extents, at, strict=True):
            number = number * extent + here
        inside = b.simplified(window.inside(at[2:]))
        return select(inside, number, how.identity[0]), x.guarded(inside, at, lowest(x.dtype))

    kinds = [("int64", shape), (x.dtype, shape)]
    indices, values = b.domain(kinds, shape, window.kernel, both, how=how)
    if node.attr("storage_order", 0):
        indices = b.compute("int64", shape, lambda *i: _column_major(indices[i], x.shape), "columns")
    return [values, indices]


def _column_major(number: Expr, shape: Sequence[int]) -> Expr:
    """The position of element `number` when the spatial dimensions are counted in the reverse order."""
    size = math.prod(shape[2:])
    digits = [number // math.prod(shape[d + 1 :]) % shape[d] for d in range(2, len(shape))]
    found: Expr = as_expr(0)
    for extent, digit in zip(reversed(shape[2:]), reversed(digits), strict=True):
        found = found * extent + digit
    return number // size * size + found


@rule("AveragePool")
def _average_pool(b: Builder, node: Node) -> Tensor:
    x, window = node[0], _window(node)
    shape = node.extents()
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
    count = as_float(number_of(x.extents[2:]), total.dtype)
    return b.compute(x.dtype, total.extents, lambda *i: total[i] / count)


@rule("GlobalMaxPool")
def _global_max_pool(b: Builder, node: Node) -> Tensor:
    return _over_positions(b, node[0], "max", node[0].dtype, "", widened=False)


def _over_positions(b: Builder, x: Tensor, how: str, dtype: str, name: str, widened: bool) -> Tensor:
    positions = x.extents[2:]
    shape = (*x.extents[:2], *(1 for _ in positions))

    def body(n: Expr, c: Expr, *rest: Expr) -> Expr:
        found = x[(n, c, *rest[len(positions) :])]
        return wide(found) if widened else found

    return b.reduce(dtype, shape, positions, how, body, name)


@rule("LpPool", "GlobalLpPool")
def _lp_pool(b: Builder, node: Node) -> Tensor:
    x, power = node[0], float(node.attr("p", 2))
    shape = node.extents()
    whole = node.op.op_type == "GlobalLpPool"
    rank = x.rank - 2
    window = (
        Window(x.shape[2:], x.shape[2:], (1,) * rank, (1,) * rank, (0,) * rank, (0,) * rank) if whole else _window(node)
    )

    def body(n: Expr, c: Expr, *rest: Expr) -> Expr:
        position = window.position(rest[:rank], rest[rank:])
        found = apply("abs", wide(x.guarded(window.inside(position), (n, c, *position))))
        return found * found if power == 2 else apply("pow", found, const(power, found.dtype))

    total = b.reduce(dtypes.accumulator(x.dtype), shape, window.kernel, "sum", body, "total")
    if power == 2:
        return b.compute(x.dtype, shape, lambda *i: apply("sqrt", total[i]))
    return b.compute(x.dtype, shape, lambda *i: apply("pow", total[i], 1.0 / power))
