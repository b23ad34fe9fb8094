"""MobileViT: inverted residuals, and attention between the same places of all patches (Mehta and Rastegari, 2022)."""

from __future__ import annotations

from benchmarks.models.graphs.layers import conv_norm, pooled_classifier
from benchmarks.models.graphs.mobilenet import inverted_residual
from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net, attention

_PATCH = 2


def mobilevit(
    seed: int = 0,
    batch: int = 1,
    image: int = 256,
    channels: tuple[int, ...] = (16, 32, 64, 96, 128, 160, 640),
    hidden: tuple[int, ...] = (144, 192, 240),
    layers: tuple[int, ...] = (2, 4, 3),
    heads: int = 4,
    expansion: int = 4,
    classes: int = 1000,
) -> Case:
    """A classifier of images of a multiple of 64 rows; the defaults are MobileViT-S.

    Args:
        channels: of the first convolution, of five stages, and of the last convolution.
        hidden: channels of the three transformers, whose feed-forward networks are twice as wide.
        layers: of the three transformers.
        expansion: of the inverted residuals.
    """
    net = Net("mobilevit", seed)
    x = net.normal("pixel_values", batch, 3, image, image)
    stem, first, second, *later, features = channels
    x = conv_norm(net, x, 3, stem, 3, 2, activation="SiLU")
    x = inverted_residual(net, x, stem, first, 1, expansion, "SiLU")
    x = inverted_residual(net, x, first, second, 2, expansion, "SiLU")
    for _ in range(2):
        x = inverted_residual(net, x, second, second, 1, expansion, "SiLU")
    inputs, side = second, image // 4
    for outputs, width, depth in zip(later, hidden, layers, strict=True):
        side //= 2
        x = inverted_residual(net, x, inputs, outputs, 2, expansion, "SiLU")
        x = _transformer(net, x, (batch, outputs, side), width, depth, heads)
        inputs = outputs
    x = conv_norm(net, x, inputs, features, activation="SiLU")
    return net.case({"logits": pooled_classifier(net, x, features, classes)})


def _transformer(net: Net, x: str, shape: tuple[int, int, int], width: int, depth: int, heads: int) -> str:
    """A transformer between convolutions; its result joins what the block was given."""
    _, channels, _ = shape
    y = conv_norm(net, x, channels, channels, 3, activation="SiLU")
    y = net.op("Conv", y, net.weight(width, channels, 1, 1), kernel_shape=[1, 1])
    y = _unfolded(net, y, shape, width)
    for _ in range(depth):
        y = _layer(net, y, shape, width, heads)
    y = _folded(net, net.layer_norm(y, width), shape, width)
    y = conv_norm(net, y, width, channels, activation="SiLU")
    return conv_norm(net, net.op("Concat", x, y, axis=1), 2 * channels, channels, 3, activation="SiLU")


def _unfolded(net: Net, x: str, shape: tuple[int, int, int], width: int) -> str:
    """`[batch · places in a patch, patches, width]`."""
    batch, _, side = shape
    count = side // _PATCH
    x = net.op("Reshape", x, net.const([batch * width * count, _PATCH, count, _PATCH]))
    x = net.op("Transpose", x, perm=[0, 2, 1, 3])
    x = net.op("Reshape", x, net.const([batch, width, count**2, _PATCH**2]))
    x = net.op("Transpose", x, perm=[0, 3, 2, 1])
    return str(net.op("Reshape", x, net.const([batch * _PATCH**2, count**2, width])))


def _folded(net: Net, x: str, shape: tuple[int, int, int], width: int) -> str:
    batch, _, side = shape
    count = side // _PATCH
    x = net.op("Reshape", x, net.const([batch, _PATCH**2, count**2, width]))
    x = net.op("Transpose", x, perm=[0, 3, 2, 1])
    x = net.op("Reshape", x, net.const([batch * width * count, count, _PATCH, _PATCH]))
    x = net.op("Transpose", x, perm=[0, 2, 1, 3])
    return str(net.op("Reshape", x, net.const([batch, width, side, side])))


def _layer(net: Net, x: str, shape: tuple[int, int, int], width: int, heads: int) -> str:
    """A pre-normalised encoder layer."""
    batch, _, side = shape
    rows, places, size = batch * _PATCH**2, (side // _PATCH) ** 2, width // heads
    fused = net.linear(net.layer_norm(x, width), width, 3 * width)
    fused = net.op("Reshape", fused, net.const([rows, places, 3, heads, size]))
    fused = net.op("Transpose", fused, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.op("Gather", fused, net.op("Constant", value_int=n), axis=0) for n in range(3))
    y = net.op("Transpose", attention(net, q, k, v, size), perm=[0, 2, 1, 3])
    x = net.op("Add", x, net.linear(net.op("Reshape", y, net.const([rows, places, width])), width, width))
    inner = net.silu(net.linear(net.layer_norm(x, width), width, 2 * width))
    return str(net.op("Add", x, net.linear(inner, 2 * width, width)))
