"""ShuffleNetV2: half of the channels pass each block unchanged, then the halves are shuffled (Ma et al., 2018)."""

from __future__ import annotations

from benchmarks.models.graphs.layers import conv_norm, max_pool, pooled_classifier
from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net


def shufflenet_v2(
    seed: int = 0,
    batch: int = 1,
    image: int = 224,
    repeats: tuple[int, ...] = (4, 8, 4),
    channels: tuple[int, ...] = (24, 116, 232, 464, 1024),
    classes: int = 1000,
) -> Case:
    """A classifier; the defaults are the network of width 1.0 (table 5 of the paper).

    Args:
        channels: of the first convolution, of each stage, and of the last convolution.
    """
    net = Net("shufflenet_v2", seed)
    x = net.normal("pixel_values", batch, 3, image, image)
    stem, *stages, features = channels
    x = max_pool(net, conv_norm(net, x, 3, stem, 3, 2, activation="Relu"), 3, 2, 1)
    inputs, side = stem, image // 4
    for depth, outputs in zip(repeats, stages, strict=True):
        side //= 2
        x = _shuffled(net, *_first(net, x, inputs, outputs // 2), batch, outputs, side)
        for _ in range(depth - 1):
            kept, moved = net.op("Split", x, net.const([outputs // 2] * 2), count=2, axis=1)
            moved = _branch(net, moved, outputs // 2, outputs // 2, 1)
            x = _shuffled(net, kept, moved, batch, outputs, side)
        inputs = outputs
    x = conv_norm(net, x, inputs, features, activation="Relu")
    return net.case({"logits": pooled_classifier(net, x, features, classes)})


def _first(net: Net, x: str, inputs: int, half: int) -> tuple[str, str]:
    """The block that halves the image: both branches read all channels."""
    kept = conv_norm(net, x, inputs, inputs, 3, 2, groups=inputs)
    kept = conv_norm(net, kept, inputs, half, activation="Relu")
    return kept, _branch(net, x, inputs, half, 2)


def _branch(net: Net, x: str, inputs: int, outputs: int, stride: int) -> str:
    y = conv_norm(net, x, inputs, outputs, activation="Relu")
    y = conv_norm(net, y, outputs, outputs, 3, stride, groups=outputs)
    return conv_norm(net, y, outputs, outputs, activation="Relu")


def _shuffled(net: Net, left: str, right: str, batch: int, channels: int, side: int) -> str:
    """The channels of two halves in turns."""
    x = net.op("Reshape", net.op("Concat", left, right, axis=1), net.const([batch, 2, channels // 2, side, side]))
    x = net.op("Transpose", x, perm=[0, 2, 1, 3, 4])
    return str(net.op("Reshape", x, net.const([batch, channels, side, side])))
