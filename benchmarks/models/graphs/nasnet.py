"""NASNet-A: cells of five sums, each of which reads two earlier results (Zoph et al., 2018, figure 4).

Layers and counts are those of TensorFlow's slim. What it pads unevenly before a stride of 2 is padded evenly here, as
ports to PyTorch do. The auxiliary head, which only training has, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.models.graphs.layers import HE, batch_norm, conv, conv_norm, max_pool, pooled_classifier
from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net

Step = tuple[int, str]
"""Which result is read (0 the last cell's, 1 that of the one before, 2 the first sum, …), and by what."""


@dataclass(frozen=True)
class Wiring:
    """A kind of cell.

    Attributes:
        stride: with which the two given results are read.
        sums: what each of the sums adds.
        joined: which results the cell concatenates.
    """

    stride: int
    sums: Sequence[tuple[Step, Step]]
    joined: Sequence[int]


NORMAL = Wiring(
    1,
    (
        ((0, "separable 5"), (1, "separable 3")),
        ((1, "separable 5"), (1, "separable 3")),
        ((0, "average"), (1, "")),
        ((1, "average"), (1, "average")),
        ((0, "separable 3"), (0, "")),
    ),
    range(1, 7),
)
REDUCTION = Wiring(
    2,
    (
        ((0, "separable 5"), (1, "separable 7")),
        ((0, "maximum"), (1, "separable 7")),
        ((0, "average"), (1, "separable 5")),
        ((3, ""), (2, "average")),
        ((2, "separable 3"), (0, "maximum")),
    ),
    range(3, 7),
)


@dataclass(frozen=True)
class Image:
    """A value with its channels and rows."""

    name: str
    channels: int
    side: int


def nasnet(
    seed: int = 0,
    batch: int = 1,
    image: int = 224,
    cells: int = 12,
    filters: int = 44,
    stem: int = 32,
    classes: int = 1000,
    shrink: bool = True,
) -> Case:
    """A classifier; the defaults are NASNet-A (4 @ 1056), the mobile one.

    Args:
        cells: normal ones, three times the paper's N.
        filters: of the first cells, 1 / 24 of the last cell's channels.
        stem: channels of the first convolution.
        shrink: whether the first convolution has a stride of 2 and two reduction cells follow it, as for ImageNet.
    """
    net = Net("nasnet", seed)
    x = net.normal("pixel_values", batch, 3, image, image)
    side = (image - 3) // 2 + 1 if shrink else image
    first = conv(net, x, 3, stem, 3, 2 if shrink else 1, padding=0 if shrink else 1, bias=False)
    last = before = Image(batch_norm(net, first, stem), stem, side)
    if shrink:
        for divisor in (4, 2):
            last, before = _cell(net, REDUCTION, last, before, filters // divisor), last
    width = filters
    for number in range(cells):
        if number in (cells // 3, 2 * cells // 3):
            width *= 2
            last, before = _cell(net, REDUCTION, last, before, width), last
        last, before = _cell(net, NORMAL, last, before, width), last
    x = net.op("Relu", last.name)
    return net.case({"logits": pooled_classifier(net, x, last.channels, classes)})


def _cell(net: Net, wiring: Wiring, last: Image, before: Image, width: int) -> Image:
    """A cell after the cells `last` and `before`, which for the first one are the same value and read as it is."""
    matched = before if before is last else _matched(net, before, last.side, width)
    squeezed = conv_norm(net, net.op("Relu", last.name), last.channels, width)
    results = [Image(squeezed, width, last.side), matched]
    for pair in wiring.sums:
        left, right = (_step(net, results[n], kind, width, wiring.stride if n < 2 else 1) for n, kind in pair)
        results.append(Image(net.op("Add", left.name, right.name), width, left.side))
    joined = [results[n] for n in wiring.joined]
    parts = [x.name if x.channels == width else conv_norm(net, x.name, x.channels, width) for x in joined]
    return Image(net.op("Concat", *parts, axis=1), len(parts) * width, joined[-1].side)


def _step(net: Net, x: Image, kind: str, width: int, stride: int) -> Image:
    side = (x.side - 1) // stride + 1
    word, _, kernel = kind.partition(" ")
    match word:
        case "separable":
            return Image(_separable(net, x, int(kernel), width, stride), width, side)
        case "":
            y = x.name if x.channels == width else net.op("Relu", x.name)
        case "maximum":
            y = max_pool(net, x.name, 3, stride, 1)
        case _:
            y = net.op("AveragePool", x.name, kernel_shape=[3, 3], strides=[stride] * 2, pads=[1] * 4)
    return Image(y if x.channels == width else conv_norm(net, y, x.channels, width), width, side)


def _separable(net: Net, x: Image, kernel: int, width: int, stride: int) -> str:
    """ReLU, depthwise and pointwise convolution, normalisation, and all of it once more."""
    y = x.name
    for inputs, step in ((x.channels, stride), (width, 1)):
        y = conv(net, net.op("Relu", y), inputs, inputs, kernel, step, groups=inputs, bias=False, gain=HE)
        y = conv_norm(net, y, inputs, width)
    return y


def _matched(net: Net, x: Image, side: int, width: int) -> Image:
    """`x` with the rows and channels that a cell works with."""
    if x.side == side:
        if x.channels == width:
            return x
        return Image(conv_norm(net, net.op("Relu", x.name), x.channels, width), width, side)
    # Every other place, and the places between these.
    y = net.op("Relu", x.name)
    padded = net.op("Pad", y, net.const([0, 0, 0, 0, 0, 0, 1, 1]))
    moved = net.op("Slice", padded, net.const([1, 1]), net.const([x.side + 1] * 2), net.const([2, 3]))
    halves = []
    for part in (y, moved):
        kept = net.op("AveragePool", part, kernel_shape=[1, 1], strides=[2, 2])
        halves.append(conv(net, kept, x.channels, width // 2, bias=False))
    return Image(batch_norm(net, net.op("Concat", *halves, axis=1), width), width, side)
