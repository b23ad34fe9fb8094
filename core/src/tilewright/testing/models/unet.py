"""A U-Net of the kind that diffusion models use: residual blocks with group normalisation, attention in the middle,
skip connections, and both ways to enlarge (Ronneberger et al., 2015; Ho et al., 2020).
"""

from __future__ import annotations

from typing import Any

from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net, attention


def unet(
    seed: int = 0,
    opset: int = 17,
    batch: int = 1,
    image: int = 16,
    channels: int = 16,
    groups: int = 4,
    inputs: int = 3,
) -> Case:
    """Two levels down and up; `image` must be a multiple of four.

    Inputs: picture `[batch, inputs, image, image]` and a time embedding `[batch, 4·channels]`.
    """
    net = Net("unet", seed, opset)
    x = net.normal("sample", batch, inputs, image, image)
    time = net.silu(net.normal("time", batch, 4 * channels))
    x = net.conv(x, inputs, channels, (3, 3), pads=[1] * 4)
    first = _residual(net, x, time, channels, channels, channels, groups)
    x = net.conv(first, channels, channels, (3, 3), strides=[2, 2], pads=[1] * 4)
    second = _residual(net, x, time, channels, channels, 2 * channels, groups)
    x = net.op("MaxPool", second, kernel_shape=[2, 2], strides=[2, 2])
    x = _residual(net, x, time, channels, 2 * channels, 2 * channels, groups)
    x = net.op("Add", x, _middle(net, x, 2 * channels, groups))
    scales = net.const([1.0, 1.0, 2.0, 2.0])
    plain: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    x = net.op("Resize", x, "", scales, mode="nearest", **plain)
    x = net.conv(x, 2 * channels, 2 * channels, (3, 3), pads=[1] * 4)
    x = net.op("Concat", x, second, axis=1)
    x = _residual(net, x, time, channels, 4 * channels, 2 * channels, groups)
    x = net.op(
        "ConvTranspose",
        x,
        net.weight(2 * channels, channels, 4, 4, scale=0.1),
        net.weight(channels, scale=0.1),
        strides=[2, 2],
        pads=[1] * 4,
    )
    x = _residual(net, net.op("Concat", x, first, axis=1), time, channels, 2 * channels, channels, groups)
    x = net.silu(_group_norm(net, x, channels, groups))
    return net.case({"noise": net.conv(x, channels, inputs, (3, 3), pads=[1] * 4)})


def _group_norm(net: Net, x: str, channels: int, groups: int) -> str:
    """As exported before there was an operator for it: an instance normalisation between two reshapes."""
    flat = net.op("Reshape", x, net.const([0, groups, -1]))
    normal = net.op("InstanceNormalization", flat, net.const([1.0] * groups), net.const([0.0] * groups), epsilon=1e-5)
    normal = net.op("Reshape", normal, net.op("Shape", x))
    scaled = net.op("Mul", normal, net.op("Reshape", net.positive(channels), net.const([channels, 1, 1])))
    return str(net.op("Add", scaled, net.op("Reshape", net.weight(channels, scale=0.1), net.const([channels, 1, 1]))))


def _residual(net: Net, x: str, time: str, base: int, inputs: int, outputs: int, groups: int) -> str:
    y = net.conv(net.silu(_group_norm(net, x, inputs, groups)), inputs, outputs, (3, 3), pads=[1] * 4)
    shift = net.op("Gemm", time, net.weight(outputs, 4 * base), net.weight(outputs, scale=0.1), transB=1)
    y = net.op("Add", y, net.op("Unsqueeze", shift, net.const([2, 3])))
    y = net.conv(net.silu(_group_norm(net, y, outputs, groups)), outputs, outputs, (3, 3), pads=[1] * 4)
    skip = x if inputs == outputs else net.conv(x, inputs, outputs, (1, 1))
    return str(net.op("Add", skip, y))


def _middle(net: Net, x: str, channels: int, groups: int) -> str:
    """Attention over all positions, with one head."""
    height, width = net.dim(x, 2), net.dim(x, 3)
    y = net.view(_group_norm(net, x, channels, groups), net.dim(x, 0), channels, net.op("Mul", height, width))
    y = net.op("Unsqueeze", net.op("Transpose", y, perm=[0, 2, 1]), net.const([1]))
    q, k, v = (net.linear(y, channels, channels) for _ in range(3))
    y = net.linear(attention(net, q, k, v, channels), channels, channels)
    y = net.op("Transpose", net.op("Squeeze", y, net.const([1])), perm=[0, 2, 1])
    return net.view(y, net.dim(x, 0), channels, height, width)
