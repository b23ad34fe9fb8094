"""The operator `Binarizer` of `ai.onnx.ml`: 1 where the input exceeds a threshold, else 0."""

from __future__ import annotations

from tilewright.frontend.legalize import Builder, Node, Tensor
from tilewright.ir.expr import const, select


def binarizer(b: Builder, node: Node) -> Tensor:
    """`y = x > threshold ? 1 : 0`, in the dtype of x."""
    x, out = node[0], node.out()
    threshold = const(float(node.attr("threshold", 0.0)), out.dtype)
    one, zero = const(1.0, out.dtype), const(0.0, out.dtype)
    return b.compute(out.dtype, out.static_shape(), lambda *i: select(x.at(i) > threshold, one, zero))
