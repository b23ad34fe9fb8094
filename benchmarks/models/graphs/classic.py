"""AlexNet in the form with one column (Krizhevsky, 2014) and VGG-16 (Simonyan and Zisserman, 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.models.graphs.layers import HE, conv, gemm, max_pool
from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net

ALEXNET = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
"""Channels, window, stride and padding of AlexNet's convolutions; the first, second and last are pooled."""
VGG16 = (2, 2, 3, 3, 3)
"""Convolutions of each of VGG-16's stages."""


def alexnet(
    seed: int = 0, batch: int = 1, image: int = 224, divisor: int = 1, hidden: int = 4096, classes: int = 1000
) -> Case:
    """A classifier of images of at least 63 rows.

    Args:
        divisor: of the number of channels.
    """
    net = Net("alexnet", seed)
    x = net.normal("pixel_values", batch, 3, image, image)
    inputs, side = 3, image
    for number, (outputs, kernel, stride, padding) in enumerate(ALEXNET):
        outputs //= divisor
        y = conv(net, x, inputs, outputs, kernel, stride, padding=padding, gain=HE)
        x, inputs, side = net.op("Relu", y), outputs, (side + 2 * padding - kernel) // stride + 1
        if number in (0, 1, 4):
            x, side = max_pool(net, x, 3, 2), (side - 3) // 2 + 1
    return net.case({"logits": _head(net, x, inputs * side**2, (hidden, hidden, classes))})


def vgg16(
    seed: int = 0, batch: int = 1, image: int = 224, width: int = 64, hidden: int = 4096, classes: int = 1000
) -> Case:
    """A classifier of images of a multiple of 32 rows; `width` is the number of channels of the first stage."""
    net = Net("vgg16", seed)
    x = net.normal("pixel_values", batch, 3, image, image)
    inputs = 3
    for stage, depth in enumerate(VGG16):
        outputs = width * min(2**stage, 8)
        for _ in range(depth):
            x, inputs = net.op("Relu", conv(net, x, inputs, outputs, 3, gain=HE)), outputs
        x = max_pool(net, x, 2, 2)
    return net.case({"logits": _head(net, x, inputs * (image // 32) ** 2, (hidden, hidden, classes))})


def _head(net: Net, x: str, inputs: int, widths: Sequence[int]) -> str:
    """Linear layers with ReLU between them."""
    x = net.op("Flatten", x, axis=1)
    for outputs in widths[:-1]:
        x, inputs = net.op("Relu", gemm(net, x, inputs, outputs, HE)), outputs
    return gemm(net, x, inputs, widths[-1])
