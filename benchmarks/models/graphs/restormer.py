"""Restormer: restores images by attention between channels and gated depthwise convolutions (Zamir et al., 2022)."""

from __future__ import annotations

from functools import partial

from benchmarks.models.graphs.layers import conv, pixel_shuffle
from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net


def restormer(
    seed: int = 0,
    batch: int = 1,
    image: int = 256,
    width: int = 48,
    blocks: tuple[int, ...] = (4, 6, 6, 8),
    heads: tuple[int, ...] = (1, 2, 4, 8),
    refinement: int = 4,
    expansion: float = 8 / 3,
) -> Case:
    """An image from an image of the same size, a multiple of `2**(len(blocks) - 1)`.

    Args:
        blocks: for each level, from the finest to the coarsest; all but the last are passed on the way up again.
        expansion: of the channels in the feed-forward networks.
    """
    net = Net("restormer", seed)
    given = net.normal("image", batch, 3, image, image)
    x = conv(net, given, 3, width, 3, bias=False)
    skips: list[str] = []
    last = len(blocks) - 1

    def level(x: str, number: int, channels: int, count: int) -> str:
        one = partial(_block, net, shape=(batch, image >> number), heads=heads[number], expansion=expansion)
        for _ in range(count):
            x = one(x, channels)
        return x

    for number in range(last):
        x = level(x, number, width << number, blocks[number])
        skips.append(x)
        x = _unshuffle(net, conv(net, x, width << number, width << number >> 1, 3, bias=False), batch, image >> number)
    x = level(x, last, width << last, blocks[last])
    for number in reversed(range(last)):
        channels = width << number + 1
        up = pixel_shuffle(net, conv(net, x, channels, 2 * channels, 3, bias=False), 2)
        x = net.op("Concat", up, skips.pop(), axis=1)
        if number:  # the finest level keeps both
            x = conv(net, x, channels, channels // 2, bias=False)
        x = level(x, number, channels // 2 if number else channels, blocks[number])
    x = level(x, 0, 2 * width, refinement)
    return net.case({"restored": net.op("Add", conv(net, x, 2 * width, 3, 3, bias=False), given)})


def _unshuffle(net: Net, x: str, batch: int, side: int) -> str:
    """Four neighbours become channels, those of one channel side by side, as exported: reshapes and a transposition."""
    x = net.op("Reshape", x, net.const([batch, -1, side // 2, 2, side // 2, 2]))
    x = net.op("Transpose", x, perm=[0, 1, 3, 5, 2, 4])
    return str(net.op("Reshape", x, net.const([batch, -1, side // 2, side // 2])))


def _block(net: Net, x: str, channels: int, shape: tuple[int, int], heads: int, expansion: float) -> str:
    x = net.op("Add", x, _attention(net, _norm(net, x, channels, shape), channels, shape, heads))
    y = _feed_forward(net, _norm(net, x, channels, shape), channels, int(channels * expansion))
    return str(net.op("Add", x, y))


def _norm(net: Net, x: str, channels: int, shape: tuple[int, int]) -> str:
    """Layer normalisation of the channels: with the places in front, written out."""
    batch, side = shape
    x = net.op("Transpose", net.op("Reshape", x, net.const([batch, channels, side * side])), perm=[0, 2, 1])
    x = net.op("Transpose", net.layer_norm(x, channels, composed=True), perm=[0, 2, 1])
    return str(net.op("Reshape", x, net.const([batch, channels, side, side])))


def _attention(net: Net, x: str, channels: int, shape: tuple[int, int], heads: int) -> str:
    """Each channel of a head attends to the others; queries and keys have length one."""
    batch, side = shape
    x = conv(net, x, channels, 3 * channels, bias=False)
    x = conv(net, x, 3 * channels, 3 * channels, 3, groups=3 * channels, bias=False)
    rows = net.const([batch, heads, channels // heads, side * side])
    parts = net.op("Split", x, net.const([channels] * 3), count=3, axis=1)
    q, k, v = (net.op("Reshape", y, rows) for y in parts)
    scores = net.op("MatMul", _unit(net, q), net.op("Transpose", _unit(net, k), perm=[0, 1, 3, 2]))
    scores = net.op("Mul", scores, net.positive(heads, 1, 1))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    return conv(net, net.op("Reshape", y, net.const([batch, channels, side, side])), channels, channels, bias=False)


def _unit(net: Net, x: str) -> str:
    """Rows divided by their length."""
    length = net.op("ReduceL2", x, axes=[-1], keepdims=1)
    return str(net.op("Div", x, net.op("Clip", length, net.const(1e-6))))


def _feed_forward(net: Net, x: str, channels: int, inner: int) -> str:
    y = conv(net, x, channels, 2 * inner, bias=False)
    y = conv(net, y, 2 * inner, 2 * inner, 3, groups=2 * inner, bias=False)
    left, right = net.op("Split", y, net.const([inner, inner]), count=2, axis=1)
    return conv(net, net.op("Mul", net.gelu(left), right), inner, channels, bias=False)
