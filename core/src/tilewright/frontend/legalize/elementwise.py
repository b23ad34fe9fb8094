"""Element-wise operators with multidirectional broadcasting: arithmetic, comparison, logic, selection, casts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce

import numpy as np

from tilewright.frontend.legalize.builder import Builder, Tensor, wide
from tilewright.frontend.legalize.narrow import decode, encode
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, apply, bitcast, cast, const, eq, maximum, minimum, select

rule = Family()


def pointwise(
    b: Builder, node: Node, function: Callable[..., Expr], inputs: Sequence[Tensor | None] | None = None
) -> Tensor:
    """`function` at every point of the node's output, on its inputs broadcast to it."""
    out = node.out()
    given = [x for x in (node.inputs if inputs is None else inputs) if x is not None]
    return b.compute(out.dtype, out.extents, lambda *i: function(*(x.at(i) for x in given)))


def _direct(op_type: str, function: Callable[..., Expr], since: int = 1) -> None:
    """Registers an operator that is one expression in the dtype of its inputs."""

    def build(b: Builder, node: Node) -> Tensor:
        return pointwise(b, node, function)

    rule(op_type, since=since)(build)


_BINARY = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "And": "and",
    "Or": "or",
    "Xor": "xor",
    "BitwiseAnd": "bitand",
    "BitwiseOr": "bitor",
    "BitwiseXor": "bitxor",
    "Equal": "eq",
    "Less": "lt",
    "LessOrEqual": "le",
}
for _name, _op in _BINARY.items():
    _direct(_name, partial(apply, _op))
for _name in ("Sign", "Floor", "Ceil", "Round", "IsNaN"):
    _direct(_name, partial(apply, _name.lower()))
_direct("Greater", lambda x, y: x > y)
_direct("GreaterOrEqual", lambda x, y: x >= y)
_direct("Not", lambda x: ~x)
_direct("BitwiseNot", lambda x: apply("bitnot", x))
_direct("Neg", lambda x: -x)
_direct("Abs", lambda x: x if x.dtype in dtypes.UNSIGNED else apply("abs", x))
_direct("Relu", lambda x: maximum(x, 0))
_direct("Where", select)


@rule("Div")
def _div(b: Builder, node: Node) -> Tensor:
    op = "div" if dtypes.is_float(node.out().dtype) else "truncdiv"
    return pointwise(b, node, lambda x, y: apply(op, x, y))


@rule("Mod")
def _mod(b: Builder, node: Node) -> Tensor:
    op = "truncmod" if node.attr("fmod", 0) else "floormod"
    return pointwise(b, node, lambda x, y: apply(op, x, y))


@rule("Pow")
def _pow(b: Builder, node: Node) -> Tensor:
    base, exponent = node[0], node[1]
    power = exponent.scalar()
    if power == 1:
        return pointwise(b, node, lambda x: x, [base])
    if power == 2:
        return pointwise(b, node, lambda x: x * x, [base])
    if power == 3:
        return pointwise(b, node, lambda x: wide(x) * wide(x) * wide(x), [base])
    common = dtypes.accumulator(base.dtype)
    if not dtypes.is_float(base.dtype):
        common = "float64" if dtypes.is_float(exponent.dtype) else base.dtype
        if not dtypes.is_float(exponent.dtype) and dtypes.bits(exponent.dtype) > dtypes.bits(base.dtype):
            common = exponent.dtype
    out = node.out().dtype
    return pointwise(b, node, lambda x, y: _narrow(apply("pow", cast(x, common), cast(y, common)), out))


def _narrow(x: Expr, dtype: str) -> Expr:
    """An explicit conversion unless it is the rounding that every write does."""
    return x if dtypes.is_float(dtype) and dtypes.is_float(x.dtype) else cast(x, dtype)


@rule("BitShift")
def _bit_shift(b: Builder, node: Node) -> Tensor:
    if node.attr("direction") == "LEFT":
        return pointwise(b, node, lambda x, y: apply("shl", x, y))
    width = dtypes.bits(node.out().dtype)

    def right(x: Expr, y: Expr) -> Expr:
        if x.dtype in dtypes.SIGNED:  # a negative number shifted too far leaves its sign
            y = select((y >= 0) & (y < width), y, width - 1)
        return apply("shr", x, y)

    return pointwise(b, node, right)


@rule("IsInf")
def _is_inf(b: Builder, node: Node) -> Tensor:
    negative, positive = node.attr("detect_negative", 1), node.attr("detect_positive", 1)

    def test(x: Expr) -> Expr:
        if negative and positive:
            return apply("isinf", x)
        if not negative and not positive:
            return const(False, "bool")
        return eq(x, math.inf if positive else -math.inf)

    return pointwise(b, node, test)


def _variadic(op_type: str, op: Callable[[Expr, Expr], Expr], mean: bool = False, widened: bool = True) -> None:
    """Registers an operator that combines any number of inputs from left to right."""

    def build(b: Builder, node: Node) -> Tensor:
        def body(*xs: Expr) -> Expr:
            total = reduce(op, (wide(x) if widened else x for x in xs))
            return total / float(len(xs)) if mean else total

        return node[0] if len(node.inputs) == 1 else pointwise(b, node, body)

    rule(op_type)(build)


_variadic("Sum", lambda x, y: x + y)
_variadic("Mean", lambda x, y: x + y, mean=True)
_variadic("Max", maximum, widened=False)
_variadic("Min", minimum, widened=False)


@rule("Clip")
def _clip(b: Builder, node: Node) -> Tensor:
    low: Tensor | float | None = node.attr("min") if node.version < 11 else node.get(1)
    high: Tensor | float | None = node.attr("max") if node.version < 11 else node.get(2)
    x = node[0]

    def bound(of: Tensor | float) -> Expr:
        return of.at(()) if isinstance(of, Tensor) else const(of, x.dtype)

    def body(*i: Expr) -> Expr:
        result = x.at(i)
        if low is not None:
            result = maximum(result, bound(low))
        return result if high is None else minimum(result, bound(high))

    return x if low is None and high is None else b.compute(x.dtype, x.extents, body)


_PLAIN = frozenset(["float16", "bfloat16", "float32", "float64"])


@rule("Cast", "CastLike")
def _cast(b: Builder, node: Node) -> Tensor:
    x, out = node[0], node.out()
    if x.dtype == out.dtype:
        return x
    if x.scalar() is not None and {x.dtype, out.dtype} <= _PLAIN:  # literals read better than values of one element
        return b.constant(np.asarray(x.data).astype(dtypes.to_numpy(out.dtype)))
    saturate, mode = bool(node.attr("saturate", 1)), node.attr("round_mode", "up")
    return pointwise(b, node, lambda v: encode(decode(v), out.dtype, saturate, mode), [x])


@rule("BitCast")
def _bit_cast(b: Builder, node: Node) -> Tensor:
    x, out = node[0], node.out()
    if x.dtype == "bool" and out.dtype in ("uint8", "int8"):
        return pointwise(b, node, lambda v: cast(v, out.dtype), [x])
    if dtypes.bits(x.dtype) != dtypes.bits(out.dtype) or "bool" in (x.dtype, out.dtype):
        raise node.unsupported(f"reads {x.dtype} as {out.dtype}.", "Only types of one width are supported.")
    return x if x.dtype == out.dtype else pointwise(b, node, lambda v: bitcast(v, out.dtype), [x])


@rule("Identity")
def _identity(b: Builder, node: Node) -> Tensor:
    return node[0]


@rule("Dropout")
def _dropout(b: Builder, node: Node) -> list[Tensor | None]:
    x = node[0]
    training = node.constant(2, "training mode") if node.version >= 12 else None
    if training is not None and bool(training):
        ratio = node.constant(1, "ratio")
        if ratio is None or float(ratio) != 0:
            raise node.unsupported("drops elements at random.", "Export the model for inference.")
    if not node.wants(1):
        return [x]
    kept = const(1, node.out(1).dtype)
    return [x, b.compute(kept.dtype, x.extents, lambda *i: kept, "mask")]


@rule("PRelu")
def _prelu(b: Builder, node: Node) -> Tensor:
    return pointwise(b, node, lambda x, slope: select(x < 0, x * slope, x))
