"""NAFNet: restores images without activation functions, by products of halves of the channels (Chen et al., 2022)."""

from __future__ import annotations

from benchmarks.models.graphs.layers import channel_norm, conv, pixel_shuffle
from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net


def nafnet(
    seed: int = 0,
    batch: int = 1,
    image: int = 256,
    width: int = 16,
    middle: int = 1,
    encoder: tuple[int, ...] = (1, 1, 1),
    decoder: tuple[int, ...] = (1, 1, 1),
) -> Case:
    """An image from an image of the same size, a multiple of `2**len(encoder)`; numbers of blocks for each level."""
    net = Net("nafnet", seed)
    given = net.normal("image", batch, 3, image, image)
    x, channels, skips = conv(net, given, 3, width, 3), width, []
    for count in encoder:
        for _ in range(count):
            x = _block(net, x, channels)
        skips.append(x)
        x, channels = conv(net, x, channels, 2 * channels, 2, 2, padding=0), 2 * channels
    for _ in range(middle):
        x = _block(net, x, channels)
    for count in decoder:
        up = pixel_shuffle(net, conv(net, x, channels, 2 * channels, bias=False), 2)
        x, channels = net.op("Add", up, skips.pop()), channels // 2
        for _ in range(count):
            x = _block(net, x, channels)
    return net.case({"restored": net.op("Add", conv(net, x, width, 3, 3), given)})


def _block(net: Net, x: str, channels: int) -> str:
    """Depthwise convolution with a gate and attention to channels; then two pointwise convolutions with a gate."""
    y = conv(net, channel_norm(net, x, channels), channels, 2 * channels)
    y = _gate(net, conv(net, y, 2 * channels, 2 * channels, 3, groups=2 * channels), channels)
    y = net.op("Mul", y, conv(net, net.op("GlobalAveragePool", y), channels, channels))
    x = net.op("Add", x, _scaled(net, conv(net, y, channels, channels), channels))
    y = _gate(net, conv(net, channel_norm(net, x, channels), channels, 2 * channels), channels)
    return str(net.op("Add", x, _scaled(net, conv(net, y, channels, channels), channels)))


def _gate(net: Net, x: str, half: int) -> str:
    left, right = net.op("Split", x, net.const([half, half]), count=2, axis=1)
    return str(net.op("Mul", left, right))


def _scaled(net: Net, x: str, channels: int) -> str:
    """A learnt factor for each channel."""
    return str(net.op("Mul", x, net.weight(1, channels, 1, 1, scale=0.5)))
