"""Conformer: attention with relative positions, gated depthwise convolution, half-step feed-forwards
(Gulati et al., 2020).
"""

from __future__ import annotations

import numpy as np

from tilewright.testing.cases import Case
from tilewright.testing.models.net import Array, Net


def conformer(
    seed: int = 0,
    opset: int = 17,
    layers: int = 1,
    batch: int = 1,
    frames: int = 64,
    features: int = 20,
    hidden: int = 32,
    heads: int = 4,
    kernel: int = 15,
) -> Case:
    """An encoder; `hidden=512, heads=8, layers=17, features=80, frames=1000, kernel=31` is the large size.

    Input: filter-bank features `[batch, frames, features]`; two strided convolutions shorten them by four.
    """
    net = Net("conformer", seed, opset)
    x = net.op("Unsqueeze", net.normal("features", batch, frames, features), net.const([1]))
    x = net.op("Relu", net.conv(x, 1, hidden, (3, 3), strides=[2, 2]))
    x = net.op("Relu", net.conv(x, hidden, hidden, (3, 3), strides=[2, 2]))
    width = ((features - 1) // 2 - 1) // 2
    length = ((frames - 1) // 2 - 1) // 2
    x = net.op("Transpose", x, perm=[0, 2, 1, 3])
    x = net.linear(net.view(x, net.dim(x, 0), net.dim(x, 1), hidden * width), hidden * width, hidden)
    positions = net.const(_sinusoids(length, hidden))
    for _ in range(layers):
        x = _half(net, x, hidden)
        x = net.op("Add", x, _attention(net, net.layer_norm(x, hidden), positions, length, hidden, heads))
        x = net.op("Add", x, _convolution(net, net.layer_norm(x, hidden), hidden, kernel))
        x = net.layer_norm(_half(net, x, hidden), hidden)
    return net.case({"encoded": x})


def _sinusoids(length: int, hidden: int) -> Array:
    """Encodings of the distances length-1 … -(length-1), `[1, 2·length-1, hidden]`."""
    distance = np.arange(length - 1, -length, -1)[:, None]
    angle = distance * np.exp(np.arange(0, hidden, 2) * -(np.log(10000.0) / hidden))
    return np.stack((np.sin(angle), np.cos(angle)), -1).reshape(1, 2 * length - 1, hidden).astype(np.float32)


def _half(net: Net, x: str, hidden: int) -> str:
    inner = net.silu(net.linear(net.layer_norm(x, hidden), hidden, 4 * hidden))
    return str(net.op("Add", x, net.op("Mul", net.linear(inner, 4 * hidden, hidden), net.const(0.5))))


def _attention(net: Net, x: str, positions: str, length: int, hidden: int, heads: int) -> str:
    """Scores by content plus scores by distance, which are shifted into place (Dai et al., 2019)."""
    size = hidden // heads

    def heads_of(y: str, bias: str | None, order: list[int]) -> str:
        split = net.view(y, net.dim(y, 0), -1, heads, size)
        split = split if bias is None else net.op("Add", split, bias)
        return str(net.op("Transpose", split, perm=order))

    q = net.linear(x, hidden, hidden)
    by_content = heads_of(q, net.weight(heads, size, scale=0.3), [0, 2, 1, 3])
    by_distance = heads_of(q, net.weight(heads, size, scale=0.3), [0, 2, 1, 3])
    k = heads_of(net.linear(x, hidden, hidden), None, [0, 2, 3, 1])
    v = heads_of(net.linear(x, hidden, hidden), None, [0, 2, 1, 3])
    p = heads_of(net.linear(positions, hidden, hidden, bias=False), None, [0, 2, 3, 1])
    content = net.op("MatMul", by_content, k)
    distance = net.op("MatMul", by_distance, p)
    # Shift: a column of zeros in front, read with one row less.
    padded = net.op("Pad", distance, net.const([0, 0, 0, 1, 0, 0, 0, 0]))
    padded = net.view(padded, net.dim(padded, 0), heads, -1, length)
    padded = net.op("Slice", padded, net.const([1]), net.const([np.iinfo(np.int64).max]), net.const([2]))
    distance = net.view(padded, net.dim(padded, 0), heads, length, 2 * length - 1)
    distance = net.op("Slice", distance, net.const([0]), net.const([length]), net.const([3]))
    scores = net.op("Div", net.op("Add", content, distance), net.const(float(size) ** 0.5))
    context = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    context = net.op("Transpose", context, perm=[0, 2, 1, 3])
    return net.linear(net.view(context, net.dim(context, 0), -1, hidden), hidden, hidden)


def _convolution(net: Net, x: str, hidden: int, kernel: int) -> str:
    """Pointwise, gated; depthwise, normalised; pointwise."""
    y = net.conv(net.op("Transpose", x, perm=[0, 2, 1]), hidden, 2 * hidden, (1,))
    value, gate = net.op("Split", y, net.const([hidden, hidden]), count=2, axis=1)
    y = net.op("Mul", value, net.op("Sigmoid", gate))
    y = net.conv(y, hidden, hidden, (kernel,), group=hidden, pads=[kernel // 2, kernel // 2])
    statistics = (net.positive(hidden), net.weight(hidden, scale=0.1), net.weight(hidden, scale=0.1))
    y = net.op("BatchNormalization", y, *statistics, net.positive(hidden))
    y = net.conv(net.silu(y), hidden, hidden, (1,))
    return str(net.op("Transpose", y, perm=[0, 2, 1]))
