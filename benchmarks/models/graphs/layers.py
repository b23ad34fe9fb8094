"""What several of the models consist of: convolutions with normalisation and activation, heads, norms of channels.

Images are `[batch, channels, rows, columns]`. Functions take and return names of values, as `Net` does.
"""

from __future__ import annotations

from typing import Any

from tilewright.testing.models.net import Net

Pair = int | tuple[int, int]
"""Of rows and columns, or of both."""
HE = 2.0**0.5
"""Gain of weights before a ReLU, so that deep networks neither fade nor grow (He et al., 2015)."""


def conv(
    net: Net,
    x: str,
    inputs: int,
    outputs: int,
    kernel: Pair = 1,
    stride: Pair = 1,
    *,
    groups: int = 1,
    padding: int | None = None,
    bias: bool = True,
    gain: float = 1.0,
) -> str:
    """A convolution; with odd windows it keeps the image's size by default, divided by the stride."""
    window = _both(kernel)
    pads = [n // 2 if padding is None else padding for n in window] * 2
    fan_in = inputs // groups * window[0] * window[1]
    weights = net.weight(outputs, inputs // groups, *window, scale=gain * fan_in**-0.5)
    biases = [net.weight(outputs, scale=0.1)] if bias else []
    shape: dict[str, Any] = {"kernel_shape": window, "strides": _both(stride), "pads": pads, "group": groups}
    return str(net.op("Conv", x, weights, *biases, **shape))


def _both(of: Pair) -> tuple[int, int]:
    return (of, of) if isinstance(of, int) else of


def batch_norm(net: Net, x: str, channels: int) -> str:
    """A batch normalisation with the statistics of training."""
    scale, variance = net.positive(channels), net.positive(channels)
    shift, mean = net.weight(channels, scale=0.1), net.weight(channels, scale=0.1)
    return str(net.op("BatchNormalization", x, scale, shift, mean, variance, epsilon=1e-5))


def conv_norm(
    net: Net,
    x: str,
    inputs: int,
    outputs: int,
    kernel: Pair = 1,
    stride: Pair = 1,
    *,
    groups: int = 1,
    activation: str = "",
    gain: float | None = None,
) -> str:
    """A convolution without biases, a batch normalisation and an activation: "Relu", "Relu6", "SiLU" or none."""
    gain = gain if gain is not None else HE if activation else 1.0
    y = conv(net, x, inputs, outputs, kernel, stride, groups=groups, bias=False, gain=gain)
    return activated(net, batch_norm(net, y, outputs), activation)


def activated(net: Net, x: str, activation: str) -> str:
    """`x` after an activation, which is named as for `conv_norm`."""
    match activation:
        case "":
            return x
        case "Relu6":
            return str(net.op("Clip", x, net.const(0.0), net.const(6.0)))
        case "SiLU":
            return net.silu(x)
        case _:
            return str(net.op(activation, x))


def gemm(net: Net, x: str, inputs: int, outputs: int, gain: float = 1.0) -> str:
    """x · Wᵀ + b of a matrix."""
    weights = net.weight(outputs, inputs, scale=gain * inputs**-0.5)
    return str(net.op("Gemm", x, weights, net.weight(outputs, scale=0.1), transB=1))


def pooled_classifier(net: Net, x: str, channels: int, classes: int) -> str:
    """The mean over the image, then a linear layer."""
    return gemm(net, net.op("Flatten", net.op("GlobalAveragePool", x), axis=1), channels, classes)


def max_pool(net: Net, x: str, kernel: int, stride: int, padding: int = 0) -> str:
    """The largest of each square window."""
    return str(net.op("MaxPool", x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4))


def channel_norm(net: Net, x: str, channels: int, epsilon: float = 1e-6) -> str:
    """Layer normalisation of the channels at each place of an image, written out."""
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[1]))
    variance = net.op("ReduceMean", net.op("Pow", centred, net.const(2.0)), axes=[1])
    normal = net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, net.const(epsilon))))
    scale = net.op("Reshape", net.positive(channels), net.const([1, channels, 1, 1]))
    shift = net.op("Reshape", net.weight(channels, scale=0.1), net.const([1, channels, 1, 1]))
    return str(net.op("Add", net.op("Mul", normal, scale), shift))


def pixel_shuffle(net: Net, x: str, factor: int) -> str:
    """Channels become places: `factor` times the rows and columns."""
    return str(net.op("DepthToSpace", x, blocksize=factor, mode="CRD"))
