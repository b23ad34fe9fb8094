"""MobileNetV2: inverted residuals with linear bottlenecks (Sandler et al., 2018)."""

from __future__ import annotations

from benchmarks.models.graphs.layers import conv_norm, pooled_classifier
from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and first stride of each stage (table 2 of the paper)."""


def mobilenet_v2(
    seed: int = 0,
    batch: int = 1,
    image: int = 224,
    stages: tuple[tuple[int, int, int, int], ...] = STAGES,
    stem: int = 32,
    features: int = 1280,
    classes: int = 1000,
) -> Case:
    """A classifier."""
    net = Net("mobilenet_v2", seed)
    x = net.normal("pixel_values", batch, 3, image, image)
    x = conv_norm(net, x, 3, stem, 3, 2, activation="Relu6")
    inputs = stem
    for expansion, outputs, blocks, stride in stages:
        for block in range(blocks):
            x = inverted_residual(net, x, inputs, outputs, stride if block == 0 else 1, expansion, "Relu6")
            inputs = outputs
    x = conv_norm(net, x, inputs, features, activation="Relu6")
    return net.case({"logits": pooled_classifier(net, x, features, classes)})


def inverted_residual(net: Net, x: str, inputs: int, outputs: int, stride: int, expansion: int, activation: str) -> str:
    """A pointwise convolution to `expansion` times the channels (none for 1), a depthwise one, and a pointwise one."""
    inner = inputs * expansion
    y = x if expansion == 1 else conv_norm(net, x, inputs, inner, activation=activation)
    y = conv_norm(net, y, inner, inner, 3, stride, groups=inner, activation=activation)
    y = conv_norm(net, y, inner, outputs)
    return str(net.op("Add", x, y)) if stride == 1 and inputs == outputs else y
