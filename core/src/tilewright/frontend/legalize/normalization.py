"""BatchNormalization, LRN, softmax and the normalisations over axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.frontend.legalize.builder import Builder, Tensor, wide, within
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.reductions import over
from tilewright.frontend.legalize.table import Family
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, apply, cast

rule = Family()


@rule("BatchNormalization")
def _batch_normalization(b: Builder, node: Node) -> Tensor:
    x, scale, bias, mean, var = (node[i] for i in range(5))
    if node.attr("training_mode", 0):
        raise node.unsupported("is in training mode.", "Export the model for inference.")
    if not node.attr("spatial", 1):
        raise node.unsupported(
            "normalises each element on its own (spatial=0).", "Export with a newer opset."
        )
    epsilon = float(node.attr("epsilon", 1e-5))
    carried = dtypes.accumulator(x.dtype)
    known = [t.data for t in (scale, bias, mean, var)]
    if all(t is not None for t in known):
        # One multiply-add per element; the factors are exact to the last bit of the carried dtype.
        s, o, m, v = (np.asarray(t).astype(np.float64) for t in known)
        factor = s / np.sqrt(v + epsilon)
        f = b.constant(factor.astype(dtypes.to_numpy(carried)), "factor")
        a = b.constant((o - m * factor).astype(dtypes.to_numpy(carried)), "offset")
        return b.compute(x.dtype, x.shape, lambda *i: wide(x[i]) * f[i[1]] + a[i[1]])
    factors = b.compute(
        carried,
        scale.shape,
        lambda c: cast(scale[c], carried) / apply("sqrt", cast(var[c], carried) + epsilon),
        "factor",
    )

    def body(*i: Expr) -> Expr:
        c = i[1]
        return (wide(x[i]) - cast(mean[c], carried)) * factors[c] + cast(bias[c], carried)

    return b.compute(x.dtype, x.shape, body)


@rule("LRN")
def _lrn(b: Builder, node: Node) -> Tensor:
    x, size = node[0], int(node.attr("size"))
    alpha, beta, bias = node.attr("alpha", 1e-4), node.attr("beta", 0.75), node.attr("bias", 1.0)
    channels = x.shape[1]

    def square(*i: Expr) -> Expr:
        at = i[1] + i[-1] - (size - 1) // 2
        found = wide(x.guarded(within(at, channels), (i[0], at, *i[2:-1])))
        return found * found

    total = b.reduce(dtypes.accumulator(x.dtype), x.shape, (size,), "sum", square, "squares")
    return b.compute(
        x.dtype, x.shape, lambda *i: wide(x[i]) / apply("pow", total[i] * (alpha / size) + bias, float(beta))
    )


def softmax(b: Builder, x: Tensor, axes: Sequence[int], dtype: str, log: bool = False) -> Tensor:
    """Softmax (or its logarithm) of `x` over `axes` taken together, carried in the accumulator's dtype."""
    carried = dtypes.accumulator(x.dtype)
    highest = over(b, x, axes, x.dtype, "max", lambda v: v, "max")

    def shifted(*i: Expr) -> Expr:
        return wide(x[i]) - wide(highest.at(i))

    if log:
        total = over(
            b, x, axes, carried, "sum", lambda v: v, "sum", point=lambda *i: apply("exp", shifted(*i))
        )
        return b.compute(dtype, x.shape, lambda *i: shifted(*i) - apply("log", total.at(i)))
    powers = b.compute(carried, x.shape, lambda *i: apply("exp", shifted(*i)), "exp")
    total = over(b, powers, axes, carried, "sum", lambda v: v, "sum")
    return b.compute(dtype, x.shape, lambda *i: powers[i] / total.at(i))


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
