"""Swin Transformer: attention in shifted windows, merging of patches (Liu et al., 2021)."""

from __future__ import annotations

import numpy as np

from tilewright.testing.cases import Case
from tilewright.testing.models.net import Array, Net, attention_scores


def swin(
    seed: int = 0,
    opset: int = 17,
    depths: tuple[int, ...] = (2, 2),
    batch: int = 1,
    image: int = 32,
    patch: int = 4,
    window: int = 4,
    hidden: int = 16,
    heads: tuple[int, ...] = (2, 4),
    classes: int = 10,
) -> Case:
    """A classifier; Swin-T is `hidden=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7, image=224,
    classes=1000`.

    Every second layer of a stage shifts its windows by half their size. Input: pixels `[batch, 3, image, image]`.
    """
    net = Net("swin", seed, opset)
    pixels = net.normal("pixel_values", batch, 3, image, image)
    x = net.conv(pixels, 3, hidden, (patch, patch), strides=[patch, patch])
    side = image // patch
    x = net.layer_norm(net.op("Transpose", x, perm=[0, 2, 3, 1]), hidden)
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        for layer in range(depth):
            size = min(window, side)
            shift = size // 2 if layer % 2 and size < side else 0
            x = _block(net, x, side, hidden, count, size, shift)
        if stage + 1 < len(depths):
            x = _merge(net, x, hidden)
            side, hidden = side // 2, hidden * 2
    x = net.layer_norm(net.view(x, net.dim(x, 0), -1, hidden), hidden)
    pooled = net.op("GlobalAveragePool", net.op("Transpose", x, perm=[0, 2, 1]))
    pooled = net.op("Flatten", pooled, axis=1)
    logits = net.op("Gemm", pooled, net.weight(classes, hidden), net.weight(classes, scale=0.1), transB=1)
    return net.case({"logits": logits})


def _roll(net: Net, x: str, shift: int, axis: int) -> str:
    """Elements moved towards the front by `shift`, around the end: two slices and a concatenation."""
    far = np.iinfo(np.int64).max
    tail = net.op("Slice", x, net.const([shift]), net.const([far]), net.const([axis]), net.const([1]))
    head = net.op("Slice", x, net.const([0]), net.const([shift]), net.const([axis]), net.const([1]))
    return str(net.op("Concat", tail, head, axis=axis))


def _block(net: Net, x: str, side: int, hidden: int, heads: int, window: int, shift: int) -> str:
    size, count = hidden // heads, side // window
    y = net.layer_norm(x, hidden)
    if shift:
        y = _roll(net, _roll(net, y, shift, 1), shift, 2)
    y = net.view(y, net.dim(y, 0), count, window, count, window, hidden)
    y = net.view(net.op("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), -1, window * window, hidden)
    fused = net.view(net.linear(y, hidden, 3 * hidden), net.dim(y, 0), net.dim(y, 1), 3, heads, size)
    fused = net.op("Transpose", fused, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.op("Gather", fused, net.op("Constant", value_int=n), axis=0) for n in range(3))
    bias, places = _position_bias(net, heads, window), window * window
    scores = net.op("Add", attention_scores(net, q, k, size), bias)
    if shift:
        regions = net.op("Unsqueeze", net.const(_window_mask(side, window, shift)), net.const([1]))
        scores = net.op("Add", net.view(scores, -1, count * count, heads, places, places), regions)
        scores = net.view(scores, -1, heads, places, places)
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.view(net.op("Transpose", y, perm=[0, 2, 1, 3]), net.dim(y, 0), window * window, hidden)
    y = net.view(net.linear(y, hidden, hidden), -1, count, count, window, window, hidden)
    y = net.view(net.op("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), -1, side, side, hidden)
    if shift:
        y = _roll(net, _roll(net, y, side - shift, 1), side - shift, 2)
    x = net.op("Add", x, y)
    inner = net.gelu(net.linear(net.layer_norm(x, hidden), hidden, 4 * hidden))
    return str(net.op("Add", x, net.linear(inner, 4 * hidden, hidden)))


def _position_bias(net: Net, heads: int, window: int) -> str:
    """A learnt table, looked up by the distance of two positions: `[1, heads, window², window²]`."""
    at = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij")).reshape(2, -1)
    distance = at[:, :, None] - at[:, None, :] + window - 1
    index = distance[0] * (2 * window - 1) + distance[1]
    found = net.op("Gather", net.weight((2 * window - 1) ** 2, heads, scale=0.5), net.const(index.reshape(-1)))
    found = net.view(found, window * window, window * window, -1)
    return str(net.op("Unsqueeze", net.op("Transpose", found, perm=[2, 0, 1]), net.const([0])))


def _window_mask(side: int, window: int, shift: int) -> Array:
    """-100 where two positions of a shifted window come from different regions of the image."""
    region = np.zeros(side, np.int64)
    region[side - window : side - shift] = 1
    region[side - shift :] = 2
    regions = (region[:, None] * 3 + region[None, :]).reshape(side // window, window, side // window, window)
    flat = regions.transpose(0, 2, 1, 3).reshape(-1, window * window)
    return np.where(flat[:, None, :] == flat[:, :, None], 0.0, -100.0).astype(np.float32)


def _merge(net: Net, x: str, hidden: int) -> str:
    """Four neighbours become one position of twice as many channels."""
    parts = []
    for column in (0, 1):
        for row in (0, 1):
            rows = net.op("Slice", x, net.const([row]), net.const([1 << 40]), net.const([1]), net.const([2]))
            parts.append(
                net.op("Slice", rows, net.const([column]), net.const([1 << 40]), net.const([2]), net.const([2]))
            )
    merged = net.layer_norm(net.op("Concat", *parts, axis=-1), 4 * hidden)
    return net.linear(merged, 4 * hidden, 2 * hidden, bias=False)
