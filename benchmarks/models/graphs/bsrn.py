"""BSRN: enlarges images by blueprint convolutions, pointwise then depthwise, with attention to places and channels
(Li et al., 2022).
"""

from __future__ import annotations

from benchmarks.models.graphs.layers import conv, max_pool, pixel_shuffle
from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net


def bsrn(seed: int = 0, batch: int = 1, image: int = 256, channels: int = 64, blocks: int = 8, factor: int = 4) -> Case:
    """An image of `factor` times the rows and columns; `image` is at least 15."""
    net = Net("bsrn", seed)
    given = net.normal("image", batch, 3, image, image)
    first = x = _blueprint(net, net.op("Concat", *[given] * 4, axis=1), 12, channels)
    found = []
    for _ in range(blocks):
        x = _distillation(net, x, channels, image)
        found.append(x)
    x = net.gelu(conv(net, net.op("Concat", *found, axis=1), channels * blocks, channels))
    x = net.op("Add", _blueprint(net, x, channels, channels), first)
    return net.case({"enlarged": pixel_shuffle(net, conv(net, x, channels, 3 * factor**2, 3), factor)})


def _blueprint(net: Net, x: str, inputs: int, outputs: int, stride: int = 1, padding: int = 1) -> str:
    x = conv(net, x, inputs, outputs, bias=False)
    return conv(net, x, outputs, outputs, 3, stride, groups=outputs, padding=padding)


def _distillation(net: Net, x: str, channels: int, side: int) -> str:
    """Three refinements; of each input half as many channels are kept beside it."""
    rest, kept = x, []
    for _ in range(3):
        kept.append(net.gelu(conv(net, rest, channels, channels // 2)))
        rest = net.gelu(net.op("Add", _blueprint(net, rest, channels, channels), rest))
    kept.append(net.gelu(_blueprint(net, rest, channels, channels // 2)))
    y = conv(net, net.op("Concat", *kept, axis=1), 2 * channels, channels)
    return str(net.op("Add", _channel_attention(net, _spatial_attention(net, y, channels, side), channels), x))


def _spatial_attention(net: Net, x: str, channels: int, side: int) -> str:
    """A factor for each element, which looks far: from a small image that is enlarged again."""
    few = channels // 4
    narrow = conv(net, x, channels, few)
    y = max_pool(net, _blueprint(net, narrow, few, few, 2, 0), 7, 3)
    y = net.gelu(_blueprint(net, y, few, few))
    y = _blueprint(net, net.gelu(_blueprint(net, y, few, few)), few, few)
    batch_and_channels = net.op("Slice", net.op("Shape", y), net.const([0]), net.const([2]), net.const([0]))
    shape = net.op("Concat", batch_and_channels, net.const([side, side]), axis=0)
    y = net.op("Resize", y, "", "", shape, mode="linear", coordinate_transformation_mode="half_pixel")
    y = conv(net, net.op("Add", y, conv(net, narrow, few, few)), few, channels)
    return str(net.op("Mul", x, net.op("Sigmoid", y)))


def _channel_attention(net: Net, x: str, channels: int) -> str:
    """A factor for each channel by its mean and standard deviation.

    The variance is a mean, for the sum of 65,536 squares is more than float16 holds.
    """
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[2, 3]))
    deviation = net.op("Sqrt", net.op("ReduceMean", net.op("Pow", centred, net.const(2.0)), axes=[2, 3]))
    y = net.op("Add", deviation, net.op("GlobalAveragePool", x))
    few = max(channels // 16, 1)
    y = conv(net, net.op("Relu", conv(net, y, channels, few)), few, channels)
    return str(net.op("Mul", x, net.op("Sigmoid", y)))
