"""Conformer's encoder with plain attention (Gulati et al., 2020), for frames that have their width already."""

from __future__ import annotations

from benchmarks.models.graphs.layers import batch_norm
from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net, attention


def conformer(
    seed: int = 0,
    batch: int = 1,
    frames: int = 512,
    width: int = 512,
    inner: int = 512,
    heads: int = 8,
    layers: int = 12,
    kernel: int = 31,
) -> Case:
    """Frames `[batch, frames, width]`, all of them valid; `inner` is the width within feed-forward networks."""
    net = Net("conformer", seed)
    x = net.normal("frames", batch, frames, width)
    for _ in range(layers):
        x = _half(net, x, width, inner)
        x = net.op("Add", x, _attention(net, net.layer_norm(x, width), (batch, frames, width), heads))
        x = net.op("Add", x, _convolution(net, net.layer_norm(x, width), width, kernel))
        x = net.layer_norm(_half(net, x, width, inner), width)
    return net.case({"encoded": x})


def _half(net: Net, x: str, width: int, inner: int) -> str:
    """A feed-forward network, of which half is added."""
    y = net.linear(net.silu(net.linear(net.layer_norm(x, width), width, inner)), inner, width)
    return str(net.op("Add", x, net.op("Mul", y, net.const(0.5))))


def _attention(net: Net, x: str, shape: tuple[int, int, int], heads: int) -> str:
    batch, frames, width = shape
    split = net.const([batch, frames, heads, width // heads])
    q, k, v = (
        net.op("Transpose", net.op("Reshape", net.linear(x, width, width), split), perm=[0, 2, 1, 3]) for _ in range(3)
    )
    y = net.op("Transpose", attention(net, q, k, v, width // heads), perm=[0, 2, 1, 3])
    return net.linear(net.op("Reshape", y, net.const([batch, frames, width])), width, width)


def _convolution(net: Net, x: str, width: int, kernel: int) -> str:
    """Pointwise, gated; depthwise, normalised; pointwise."""
    y = net.conv(net.op("Transpose", x, perm=[0, 2, 1]), width, 2 * width, (1,))
    value, gate = net.op("Split", y, net.const([width, width]), count=2, axis=1)
    y = net.op("Mul", value, net.op("Sigmoid", gate))
    y = net.conv(y, width, width, (kernel,), group=width, pads=[kernel // 2] * 2)
    y = net.conv(net.silu(batch_norm(net, y, width)), width, width, (1,))
    return str(net.op("Transpose", y, perm=[0, 2, 1]))
