"""ViT: patches by convolution, a class token, pre-normalised encoder layers (Dosovitskiy et al., 2021)."""

from __future__ import annotations

from onnx import TensorProto, helper

from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net, attention


def vit(
    seed: int = 0,
    opset: int = 17,
    layers: int = 1,
    batch: int = 1,
    image: int = 32,
    patch: int = 8,
    hidden: int = 48,
    heads: int = 3,
    classes: int = 10,
) -> Case:
    """A classifier; `hidden=768, heads=12, layers=12, image=224, patch=16, classes=1000` is ViT-B/16.

    Input: pixels `[batch, 3, image, image]`. Output: logits `[batch, classes]`.
    """
    net = Net("vit", seed, opset)
    pixels = net.normal("pixel_values", batch, 3, image, image)
    x = net.conv(pixels, 3, hidden, (patch, patch), strides=[patch, patch])
    x = net.op("Transpose", net.view(x, net.dim(x, 0), hidden, -1), perm=[0, 2, 1])
    shape = net.op(
        "Concat",
        net.op("Unsqueeze", net.dim(pixels, 0), net.const([0])),
        net.op("Constant", value_ints=[-1, -1]),
        axis=0,
    )
    ones = net.op("ConstantOfShape", net.const([3]), value=helper.make_tensor("one", TensorProto.INT64, [1], [1]))
    shape = net.op("Where", net.op("Equal", shape, net.op("Mul", ones, net.const(-1))), ones, shape)
    x = net.op("Concat", net.op("Expand", net.weight(1, 1, hidden, scale=0.5), shape), x, axis=1)
    x = net.op("Add", x, net.weight(1, (image // patch) ** 2 + 1, hidden, scale=0.5))
    for _ in range(layers):
        x = net.op("Add", x, _attention(net, net.layer_norm(x, hidden, 1e-6), hidden, heads))
        inner = net.gelu(net.linear(net.layer_norm(x, hidden, 1e-6), hidden, 4 * hidden))
        x = net.op("Add", x, net.linear(inner, 4 * hidden, hidden))
    first = net.op("Gather", net.layer_norm(x, hidden, 1e-6), net.op("Constant", value_int=0), axis=1)
    logits = net.op("Gemm", first, net.weight(classes, hidden), net.weight(classes, scale=0.1), transB=1)
    return net.case({"logits": logits})


def _attention(net: Net, x: str, hidden: int, heads: int) -> str:
    """One projection for queries, keys and values, taken apart by Gather."""
    size = hidden // heads
    fused = net.view(net.linear(x, hidden, 3 * hidden), net.dim(x, 0), net.dim(x, 1), 3, heads, size)
    fused = net.op("Transpose", fused, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.op("Gather", fused, net.op("Constant", value_int=n), axis=0) for n in range(3))
    context = net.op("Transpose", attention(net, q, k, v, size), perm=[0, 2, 1, 3])
    return net.linear(net.view(context, net.dim(context, 0), net.dim(context, 1), hidden), hidden, hidden)
