"""The last block of Inception-v3: four branches of which two fork once more (Szegedy et al., 2016, figure 7)."""

from __future__ import annotations

from benchmarks.models.graphs.layers import Pair, conv_norm
from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net


def inception_block(seed: int = 0, batch: int = 1, image: int = 8, inputs: int = 2048, divisor: int = 1) -> Case:
    """A block of `[batch, inputs, image, image]`; the defaults are torchvision's `Mixed_7c`.

    Args:
        divisor: of the channels of all branches.
    """
    net = Net("inception_block", seed)
    x = net.normal("features", batch, inputs, image, image)

    def conv(x: str, before: int, after: int, kernel: Pair = 1) -> str:
        return conv_norm(net, x, before, after, kernel, activation="Relu")

    single, middle, wide, pooled = (n // divisor for n in (320, 384, 448, 192))
    third = conv(x, inputs, middle)
    fifth = conv(conv(x, inputs, wide), wide, middle, 3)
    forks = [conv(y, middle, middle, window) for y in (third, fifth) for window in ((1, 3), (3, 1))]
    pool = net.op("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, count_include_pad=1)
    parts = [conv(x, inputs, single), *forks, conv(pool, inputs, pooled)]
    return net.case({"joined": net.op("Concat", *parts, axis=1)})
