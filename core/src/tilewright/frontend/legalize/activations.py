"""Element-wise float functions. Half types are computed in float32 and rounded once, at the write."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from tilewright.frontend.legalize.builder import Builder, Tensor, wide
from tilewright.frontend.legalize.elementwise import pointwise
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.legalize.table import Family, Legalizer
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, apply, maximum, minimum, select

rule = Family()


def _float(function: Callable[[Expr], Expr]) -> Legalizer:
    """A unary float function, computed in the accumulator's dtype."""

    def build(b: Builder, node: Node) -> Tensor:
        return pointwise(b, node, lambda x: function(wide(x)))

    return build


_FUNCTIONS = "Exp Log Sqrt Sin Cos Tan Asin Acos Atan Sinh Cosh Tanh Asinh Acosh Atanh Erf"
for _name in _FUNCTIONS.split():
    rule(_name)(_float(partial(apply, _name.lower())))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + apply("exp", -x))


def softplus(x: Expr) -> Expr:
    """log(1 + e^x) without overflow."""
    return maximum(x, 0.0) + apply("log", 1.0 + apply("exp", -apply("abs", x)))


rule("Reciprocal")(_float(lambda x: 1.0 / x))
rule("Sigmoid")(_float(sigmoid))
rule("Softplus")(_float(softplus))
rule("Softsign")(_float(lambda x: x / (1.0 + apply("abs", x))))
rule("Mish")(_float(lambda x: x * apply("tanh", softplus(x))))
rule("HardSwish")(_float(lambda x: x * maximum(0.0, minimum(1.0, x / 6.0 + 0.5))))


def _expm1(x: Expr) -> Expr:
    return apply("exp", x) - 1.0


def _parametric(function: Callable[..., Expr], **defaults: float) -> Legalizer:
    """A unary float function with float attributes."""

    def build(b: Builder, node: Node) -> Tensor:
        values = {name: float(node.attr(name, default)) for name, default in defaults.items()}
        return pointwise(b, node, lambda x: function(wide(x), **values), [node[0]])

    return build


rule("LeakyRelu")(_parametric(lambda x, alpha: select(x < 0.0, x * alpha, x), alpha=0.01))
rule("Elu")(_parametric(lambda x, alpha: select(x < 0.0, _expm1(x) * alpha, x), alpha=1.0))
rule("Selu")(
    _parametric(
        lambda x, alpha, gamma: select(x > 0.0, x, _expm1(x) * alpha) * gamma,
        alpha=1.67326319217681884765625,
        gamma=1.05070102214813232421875,
    )
)
rule("Celu")(_parametric(lambda x, alpha: maximum(x, 0.0) + minimum(_expm1(x / alpha) * alpha, 0.0), alpha=1.0))
rule("ThresholdedRelu")(_parametric(lambda x, alpha: select(x > alpha, x, 0.0), alpha=1.0))
rule("HardSigmoid")(
    _parametric(lambda x, alpha, beta: maximum(0.0, minimum(1.0, x * alpha + beta)), alpha=0.2, beta=0.5)
)
rule("Swish")(_parametric(lambda x, alpha: x * sigmoid(x * alpha), alpha=1.0))


@rule("Shrink")
def _shrink(b: Builder, node: Node) -> Tensor:
    bias, threshold = float(node.attr("bias", 0.0)), float(node.attr("lambd", 0.5))
    dtype = node[0].dtype

    def body(x: Expr) -> Expr:
        x = wide(x)
        zero = x * 0
        return select(x < -threshold, x + bias, select(x > threshold, x - bias, zero))

    if not dtypes.is_float(dtype):
        raise node.unsupported(f"shrinks {dtype}.", "Use a float type.")
    return pointwise(b, node, body)


@rule("Gelu")
def _gelu(b: Builder, node: Node) -> Tensor:
    def exact(x: Expr) -> Expr:
        return 0.5 * x * (1.0 + apply("erf", x * math.sqrt(0.5)))

    def approximate(x: Expr) -> Expr:
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
        return 0.5 * x * (1.0 + apply("tanh", inner))

    function = approximate if node.attr("approximate", "none") == "tanh" else exact
    return pointwise(b, node, lambda x: function(wide(x)))
