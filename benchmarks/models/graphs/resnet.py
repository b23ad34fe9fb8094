"""ResNet and ResNeXt with bottlenecks (He et al., 2016; Xie et al., 2017), the stride in the 3 × 3 convolution."""

from __future__ import annotations

from benchmarks.models.graphs.layers import conv_norm, max_pool, pooled_classifier
from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net


def resnet(
    seed: int = 0,
    batch: int = 1,
    image: int = 224,
    depths: tuple[int, ...] = (3, 4, 6, 3),
    width: int = 64,
    groups: int = 1,
    group_width: int = 64,
    classes: int = 1000,
    shrink: bool = True,
    apart: bool = False,
) -> Case:
    """A classifier; the defaults are ResNet-50, `groups=32, group_width=4` is ResNeXt-50 (32 × 4d).

    Args:
        width: channels after the first convolution; stage i works with `width · 2ⁱ` channels, its results have 4 times
            as many.
        groups: of the 3 × 3 convolutions.
        group_width: channels of a group in the first stage, where `width` is 64.
        shrink: whether the image's size is divided by 4 before the stages; else only a 3 × 3 convolution is there,
            as for CIFAR.
        apart: whether groups are convolutions of their own, which are concatenated, instead of one with groups; figures
            3b and 3c of ResNeXt's paper.
    """
    net = Net("resnet", seed)
    x = net.normal("pixel_values", batch, 3, image, image)
    if shrink:
        x = max_pool(net, conv_norm(net, x, 3, width, 7, 2, activation="Relu"), 3, 2, 1)
    else:
        x = conv_norm(net, x, 3, width, 3, activation="Relu")
    inside, inputs = _paths if apart else _grouped, width
    for stage, depth in enumerate(depths):
        channels = width << stage
        inner = channels * group_width // 64 * groups
        for block in range(depth):
            stride = 2 if stage and not block else 1
            y = inside(net, x, inputs, inner, stride, groups)
            x = _added(net, x, y, inputs, inner, 4 * channels, stride)
            inputs = 4 * channels
    return net.case({"logits": pooled_classifier(net, x, inputs, classes)})


def _grouped(net: Net, x: str, inputs: int, inner: int, stride: int, groups: int) -> str:
    y = conv_norm(net, x, inputs, inner, activation="Relu")
    return conv_norm(net, y, inner, inner, 3, stride, groups=groups, activation="Relu")


def _paths(net: Net, x: str, inputs: int, inner: int, stride: int, groups: int) -> str:
    parts = [_grouped(net, x, inputs, inner // groups, stride, 1) for _ in range(groups)]
    return str(net.op("Concat", *parts, axis=1))


def _added(net: Net, x: str, y: str, inputs: int, inner: int, outputs: int, stride: int) -> str:
    """The last convolution of a bottleneck, and the sum with what it was given."""
    y = conv_norm(net, y, inner, outputs, gain=0.5)  # a small step, or the sums grow with each block
    skip = x if inputs == outputs else conv_norm(net, x, inputs, outputs, 1, stride)
    return str(net.op("Relu", net.op("Add", y, skip)))
