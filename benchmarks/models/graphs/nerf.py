"""The network of a neural radiance field as a fused MLP evaluates it: narrow linear layers on very many points."""

from __future__ import annotations

import numpy as np

from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net


def nerf(
    seed: int = 0, batch: int = 1, points: int = 1920 * 1080, width: int = 64, layers: int = 7, outputs: int = 3
) -> Case:
    """`layers` linear layers of `batch · points` encoded points, the last of which gives `outputs` numbers."""
    net = Net("nerf", seed)
    x = net.input("points", net.rng.standard_normal((batch * points, width), np.float32))
    for _ in range(layers - 1):
        product = net.op("MatMul", x, net.weight(width, width, scale=(2 / width) ** 0.5))
        x = net.op("Relu", net.op("Add", product, net.weight(width, scale=0.1)))
    return net.case({"colours": net.linear(x, width, outputs)})
