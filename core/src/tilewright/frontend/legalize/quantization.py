"""QuantizeLinear, DequantizeLinear and the operators on quantised tensors."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.frontend.legalize.builder import Builder, Tensor
from tilewright.frontend.legalize.convolution import integer_convolution
from tilewright.frontend.legalize.matmul import batched_sum
from tilewright.frontend.legalize.narrow import decode, encode
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, apply, as_expr, cast, maximum, minimum

rule = Family()

Point = tuple[Expr, ...]


def _parameter(node: Node, given: Tensor, rank: int) -> Callable[[Point], Expr]:
    """Reads a scale or zero point: one for all, one per index of an axis, or one per block along it."""
    if given.size == 1:
        return lambda i: given[tuple(as_expr(0) for _ in given.shape)]
    axis = node.axis(rank, 1)
    if given.rank == 1:
        return lambda i: given[i[axis]]
    block = int(node.attr("block_size", 0))
    return lambda i: given[tuple(at // block if d == axis else at for d, at in enumerate(i))]


def saturate(x: Expr, dtype: str) -> Expr:
    """`x` clamped to the range of an integer dtype and converted."""
    low, high = dtypes.integer_range(dtype)
    if dtypes.is_float(x.dtype):
        return encode(minimum(maximum(x, float(low)), float(high)), dtype)
    return encode(minimum(maximum(x, low), high), dtype)


@rule("QuantizeLinear")
def _quantize(b: Builder, node: Node) -> Tensor:
    x, scale, zero, out = node[0], node[1], node.get(2), node.out()
    factor = _parameter(node, scale, x.rank)
    shift = None if zero is None else _parameter(node, zero, x.rank)
    precision = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}.get(int(node.attr("precision", 0)))
    divided = precision or (x.dtype if dtypes.is_float(x.dtype) else scale.dtype)

    def body(*i: Expr) -> Expr:
        exact = cast(x[i], divided) / cast(decode(factor(i)), divided)
        if out.dtype in dtypes.NARROW_FLOATS:
            return encode(exact, out.dtype, bool(node.attr("saturate", 1)))
        quotient = apply("round", exact)
        # Within ±2^24 the sum is exact; beyond it the result saturates anyway.
        wide = cast(minimum(maximum(cast(quotient, "float32"), -16777216.0), 16777216.0), "int32")
        return saturate(wide if shift is None else wide + cast(decode(shift(i)), "int32"), out.dtype)

    return b.compute(out.dtype, x.extents, body)


@rule("DequantizeLinear")
def _dequantize(b: Builder, node: Node) -> Tensor:
    x, scale, zero, out = node[0], node[1], node.get(2), node.out()
    factor = _parameter(node, scale, x.rank)
    shift = None if zero is None else _parameter(node, zero, x.rank)

    def body(*i: Expr) -> Expr:
        value = decode(x[i]) if x.dtype in dtypes.NARROW_FLOATS else cast(decode(x[i]), "int32")
        if shift is not None and x.dtype not in dtypes.NARROW_FLOATS:  # the zero point of a float type is zero
            value = value - cast(decode(shift(i)), "int32")
        return cast(value, "float32") * cast(decode(factor(i)), "float32")

    return b.compute(out.dtype, x.extents, body)


def _shifted(x: Tensor, zero: Tensor | None, at: Callable[[Point], Point]) -> Callable[[Expr, Point], Expr]:
    """`x - zero` in int32; `at` maps an index of x to one of the zero point."""

    def read(value: Expr, i: Point) -> Expr:
        found = cast(value, "int32")
        return found if zero is None else found - cast(zero[at(i)], "int32")

    return read


def _integer_matmul(
    b: Builder, x: Tensor, y: Tensor, x_zero: Tensor | None, y_zero: Tensor | None, name: str
) -> Tensor:
    """int32 product of two quantised matrices; zero points are scalars, per row of `x` or per column of `y`."""

    def row(i: Point) -> Point:
        assert x_zero is not None
        if x_zero.rank == x.rank and x_zero.rank > 1:
            return tuple(as_expr(0) if n == 1 else at for n, at in zip(x_zero.shape, i, strict=True))
        return tuple(as_expr(0) if x_zero.size == 1 else i[-2] for _ in x_zero.shape)

    def column(i: Point) -> Point:
        assert y_zero is not None
        if y_zero.rank == y.rank and y_zero.rank > 1:
            return tuple(as_expr(0) if n == 1 else at for n, at in zip(y_zero.shape, i, strict=True))
        return tuple(as_expr(0) if y_zero.size == 1 else i[-1] for _ in y_zero.shape)

    return batched_sum(b, x, y, "int32", _shifted(x, x_zero, row), _shifted(y, y_zero, column), name)


@rule("MatMulInteger")
def _matmul_integer(b: Builder, node: Node) -> Tensor:
    return _integer_matmul(b, node[0], node[1], node.get(2), node.get(3), "")


@rule("ConvInteger")
def _conv_integer(b: Builder, node: Node) -> Tensor:
    return integer_convolution(b, node, node[0], node[1], node.get(2), node.get(3), "")


@rule("QLinearMatMul")
def _qlinear_matmul(b: Builder, node: Node) -> Tensor:
    x, x_scale, x_zero, y, y_scale, y_zero, scale, zero = (node[n] for n in range(8))
    total = _integer_matmul(b, x, y, x_zero, y_zero, "total")

    def of(t: Tensor, i: Point, along: int) -> Expr:
        if t.size == 1:
            return cast(t[tuple(as_expr(0) for _ in t.shape)], "float32")
        return cast(t[i[along]] if t.rank == 1 else t.at(i), "float32")

    def body(*i: Expr) -> Expr:
        factor = of(x_scale, i, -2) * of(y_scale, i, -1) / of(scale, i, -2)
        shifted = cast(total[i], "float32") * factor + of(zero, i, -2)
        return saturate(apply("round", shifted), zero.dtype)

    return b.compute(node.out().dtype, total.extents, body)


@rule("QLinearConv")
def _qlinear_conv(b: Builder, node: Node) -> Tensor:
    x, x_scale, x_zero, w, w_scale, w_zero, scale, zero = (node[n] for n in range(8))
    bias = node.get(8)
    total = integer_convolution(b, node, x, w, x_zero, w_zero, "total")

    def single(t: Tensor) -> Expr:
        return cast(t[tuple(as_expr(0) for _ in t.shape)], "float32")

    def body(*i: Expr) -> Expr:
        weight = single(w_scale) if w_scale.size == 1 else w_scale[i[1]]
        found = total[i] if bias is None else total[i] + bias[i[1]]
        shifted = cast(found, "float32") * (single(x_scale) * weight / single(scale)) + single(zero)
        return saturate(apply("round", shifted), zero.dtype)

    return b.compute(node.out().dtype, total.extents, body)
