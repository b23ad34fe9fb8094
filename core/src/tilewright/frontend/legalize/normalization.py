"""BatchNormalization, LRN, softmax and the normalisations over axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.frontend.legalize.builder import Builder, Tensor, as_float, wide, within
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.reductions import over
from tilewright.frontend.legalize.table import Family
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, apply, cast, const, eq, number_of, select

rule = Family()


@rule("BatchNormalization")
def _batch_normalization(b: Builder, node: Node) -> list[Tensor | None]:
    x, scale, bias, mean, var = (node[i] for i in range(5))
    if not node.attr("spatial", 1):
        raise node.unsupported("normalises each element on its own (spatial=0).", "Export with a newer opset.")
    epsilon, carried = float(node.attr("epsilon", 1e-5)), dtypes.accumulator(x.dtype)
    if node.attr("training_mode", 0):
        return _in_training(b, node, epsilon)
    known = [t.data for t in (scale, bias, mean, var)]
    if all(t is not None for t in known):
        # One multiply-add per element; the factors are computed in float64 and rounded once.
        s, o, m, v = (np.asarray(t).astype(np.float64) for t in known)
        factor = s / np.sqrt(v + epsilon)
        f = b.constant(factor.astype(dtypes.to_numpy(carried)), "factor")
        a = b.constant((o - m * factor).astype(dtypes.to_numpy(carried)), "offset")
        return [b.compute(x.dtype, x.extents, lambda *i: wide(x[i]) * f[i[1]] + a[i[1]])]
    return [_by_channel(b, x, scale, bias, mean, var, epsilon)]


def _by_channel(
    b: Builder, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, epsilon: float
) -> Tensor:
    """`(x - mean) * scale / sqrt(var + epsilon) + bias`, all but `x [N, C, …]` of shape [C]."""
    carried = dtypes.accumulator(x.dtype)
    factors = b.compute(
        carried,
        scale.extents,
        lambda c: cast(scale[c], carried) / apply("sqrt", cast(var[c], carried) + epsilon),
        "factor",
    )

    def body(*i: Expr) -> Expr:
        c = i[1]
        return (wide(x[i]) - cast(mean[c], carried)) * factors[c] + cast(bias[c], carried)

    return b.compute(x.dtype, x.extents, body)


def _in_training(b: Builder, node: Node, epsilon: float) -> list[Tensor | None]:
    """Normalises with the statistics of the batch and updates the running ones."""
    x, scale, bias, mean, var = (node[i] for i in range(5))
    momentum, carried = float(node.attr("momentum", 0.9)), dtypes.accumulator(x.dtype)
    axes = [d for d in range(x.rank) if d != 1]
    count = as_float(number_of([x.extents[d] for d in axes]), carried)
    total = over(b, x, axes, carried, "sum", wide, "total", keep=False)
    average = b.compute(carried, total.extents, lambda c: total[c] / count, "mean")

    def deviation(*i: Expr) -> Expr:
        difference = wide(x[i]) - average[i[1]]
        return difference * difference

    squares = over(b, x, axes, carried, "sum", lambda v: v, "squares", point=deviation, keep=False)
    variance = b.compute(carried, total.extents, lambda c: squares[c] / count, "variance")

    def running(old: Tensor, new: Tensor) -> Tensor:
        return b.compute(
            old.dtype,
            old.extents,
            lambda c: wide(old[c]) * momentum + cast(new[c], dtypes.accumulator(old.dtype)) * (1 - momentum),
        )

    moved = [running(old, new) if node.wants(n) else None for n, old, new in ((1, mean, average), (2, var, variance))]
    return [_by_channel(b, x, scale, bias, average, variance, epsilon), *moved]


@rule("LayerNormalization")
def _layer_normalization(b: Builder, node: Node) -> list[Tensor | None]:
    x, scale, bias = node[0], node[1], node.get(2)
    axes = list(range(node.axis(x.rank, -1), x.rank))
    carried, epsilon = dtypes.accumulator(x.dtype), float(node.attr("epsilon", 1e-5))
    count = as_float(number_of([x.extents[d] for d in axes]), carried)
    total = over(b, x, axes, carried, "sum", wide, "total")
    mean = b.compute(carried, total.extents, lambda *i: total[i] / count, "mean")

    def deviation(*i: Expr) -> Expr:
        difference = wide(x[i]) - mean.at(i)
        return difference * difference

    squares = over(b, x, axes, carried, "sum", lambda v: v, "squares", point=deviation)
    inverse = b.compute(carried, total.extents, lambda *i: 1.0 / apply("sqrt", squares[i] / count + epsilon), "inverse")

    def body(*i: Expr) -> Expr:
        found = (wide(x[i]) - mean.at(i)) * inverse.at(i) * cast(scale.at(i), carried)
        return found if bias is None else found + cast(bias.at(i), carried)

    def stored(t: Tensor, position: int) -> Tensor | None:
        if not node.wants(position):
            return None
        dtype = node.out(position).dtype
        return t if t.dtype == dtype else b.compute(dtype, t.extents, lambda *i: t[i])

    return [b.compute(x.dtype, x.extents, body), stored(mean, 1), stored(inverse, 2)]


@rule("RMSNormalization")
def _rms_normalization(b: Builder, node: Node) -> Tensor:
    x, scale = node[0], node[1]
    axes = list(range(node.axis(x.rank, -1), x.rank))
    carried, epsilon = dtypes.accumulator(x.dtype), float(node.attr("epsilon", 1e-5))
    count = as_float(number_of([x.extents[d] for d in axes]), carried)
    squares = over(b, x, axes, carried, "sum", lambda v: wide(v) * wide(v), "squares")
    shape = squares.extents
    inverse = b.compute(carried, shape, lambda *i: 1.0 / apply("sqrt", squares[i] / count + epsilon), "inverse")
    out = node.out()
    return b.compute(out.dtype, x.extents, lambda *i: wide(x[i]) * inverse.at(i) * cast(scale.at(i), carried))


@rule("InstanceNormalization")
def _instance_normalization(b: Builder, node: Node) -> Tensor:
    return _by_groups(b, node, node.fixed(node[0], 1, "channels"), by_channel=True)


@rule("GroupNormalization")
def _group_normalization(b: Builder, node: Node) -> Tensor:
    return _by_groups(b, node, int(node.attr("num_groups")), by_channel=node.version >= 21)


def _by_groups(b: Builder, node: Node, groups: int, by_channel: bool) -> Tensor:
    """Normalises `x [N, C, …]` over the channels of a group and all positions; scale and bias per channel or group."""
    x, scale, bias = node[0], node[1], node[2]
    carried, epsilon = dtypes.accumulator(x.dtype), float(node.attr("epsilon", 1e-5))
    size, positions = node.fixed(x, 1, "channels") // groups, x.extents[2:]
    count = as_float(number_of((size, *positions)), carried)
    statistics, reduced = (x.extents[0], groups), (size, *positions)

    def element(n: Expr, g: Expr, c: Expr, at: Sequence[Expr]) -> Expr:
        return wide(x[(n, g * size + c, *at)])

    total = b.reduce(carried, statistics, reduced, "sum", lambda n, g, c, *at: element(n, g, c, at), "total")
    mean = b.compute(carried, statistics, lambda *i: total[i] / count, "mean")

    def deviation(n: Expr, g: Expr, c: Expr, *at: Expr) -> Expr:
        difference = element(n, g, c, at) - mean[n, g]
        return difference * difference

    squares = b.reduce(carried, statistics, reduced, "sum", deviation, "squares")
    inverse = b.compute(carried, statistics, lambda *i: 1.0 / apply("sqrt", squares[i] / count + epsilon), "inverse")

    def body(n: Expr, g: Expr, c: Expr, *at: Expr) -> Expr:
        own = g * size + c if by_channel else g
        normal = (element(n, g, c, at) - mean[n, g]) * inverse[n, g]
        return normal * cast(scale[own], carried) + cast(bias[own], carried)

    return b.domain(
        [(x.dtype, x.extents)],
        (x.extents[0], groups, size, *positions),
        (),
        body,
        index=lambda n, g, c, *at: (n, g * size + c, *at),
    )[0]


@rule("LpNormalization")
def _lp_normalization(b: Builder, node: Node) -> Tensor:
    x, power = node[0], int(node.attr("p", 2))
    carried, axis = dtypes.accumulator(x.dtype), node.axis(x.rank, -1)
    total = over(
        b, x, [axis], carried, "sum", lambda v: apply("abs", wide(v)) if power == 1 else wide(v) * wide(v), "total"
    )
    norm = total if power == 1 else b.compute(carried, total.extents, lambda *i: apply("sqrt", total[i]), "norm")

    def body(*i: Expr) -> Expr:
        length = norm.at(i)
        return select(eq(length, 0.0), const(0, carried), wide(x[i]) / length)

    return b.compute(x.dtype, x.extents, body)


@rule("LRN")
def _lrn(b: Builder, node: Node) -> Tensor:
    x, size = node[0], int(node.attr("size"))
    alpha, beta, bias = node.attr("alpha", 1e-4), node.attr("beta", 0.75), node.attr("bias", 1.0)
    channels = x.extents[1]

    def square(*i: Expr) -> Expr:
        at = i[1] + i[-1] - (size - 1) // 2
        found = wide(x.guarded(within(at, channels), (i[0], at, *i[2:-1])))
        return found * found

    total = b.reduce(dtypes.accumulator(x.dtype), x.extents, (size,), "sum", square, "squares")
    return b.compute(
        x.dtype, x.extents, lambda *i: wide(x[i]) / apply("pow", total[i] * (alpha / size) + bias, float(beta))
    )


def softmax(b: Builder, x: Tensor, axes: Sequence[int], dtype: str, log: bool = False) -> Tensor:
    """Softmax (or its logarithm) of `x` over `axes` taken together, carried in the accumulator's dtype."""
    carried = dtypes.accumulator(x.dtype)
    highest = over(b, x, axes, x.dtype, "max", lambda v: v, "max")

    def shifted(*i: Expr) -> Expr:
        return wide(x[i]) - wide(highest.at(i))

    if log:
        total = over(b, x, axes, carried, "sum", lambda v: v, "sum", point=lambda *i: apply("exp", shifted(*i)))
        return b.compute(dtype, x.extents, lambda *i: shifted(*i) - apply("log", total.at(i)))
    powers = b.compute(carried, x.extents, lambda *i: apply("exp", shifted(*i)), "exp")
    total = over(b, powers, axes, carried, "sum", lambda v: v, "sum")
    return b.compute(dtype, x.extents, lambda *i: powers[i] / total.at(i))


def _softmax_axes(node: Node) -> list[int]:
    rank = node[0].rank
    if node.version >= 13:
        return [node.axis(rank, -1)]
    return list(range(node.axis(rank, 1), rank))  # the tensor counts as a matrix, split at the axis


@rule("Softmax")
def _softmax(b: Builder, node: Node) -> Tensor:
    return softmax(b, node[0], _softmax_axes(node), node.out().dtype)


@rule("LogSoftmax")
def _log_softmax(b: Builder, node: Node) -> Tensor:
    return softmax(b, node[0], _softmax_axes(node), node.out().dtype, log=True)
