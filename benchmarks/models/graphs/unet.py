"""U-Net: an encoder, a decoder, and skip connections on every level (Ronneberger et al., 2015).

With padded convolutions, batch normalisations and transposed convolutions.
"""

from __future__ import annotations

from benchmarks.models.graphs.layers import conv, conv_norm, max_pool
from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net


def unet(seed: int = 0, batch: int = 1, image: int = 224, width: int = 64, levels: int = 4, classes: int = 100) -> Case:
    """Classifies each pixel. `image` is a multiple of `2**levels`; level i has `width · 2ⁱ` channels."""
    net = Net("unet", seed)
    x = _twice(net, net.normal("pixel_values", batch, 3, image, image), 3, width)
    skips = []
    for level in range(levels):
        skips.append(x)
        x = _twice(net, max_pool(net, x, 2, 2), width << level, width << level + 1)
    for level in reversed(range(levels)):
        outputs = width << level
        weights = net.weight(2 * outputs, outputs, 2, 2, scale=(2 * outputs) ** -0.5)
        up = net.op("ConvTranspose", x, weights, net.weight(outputs, scale=0.1), kernel_shape=[2, 2], strides=[2, 2])
        x = _twice(net, net.op("Concat", skips.pop(), up, axis=1), 2 * outputs, outputs)
    return net.case({"logits": conv(net, x, width, classes)})


def _twice(net: Net, x: str, inputs: int, outputs: int) -> str:
    x = conv_norm(net, x, inputs, outputs, 3, activation="Relu")
    return conv_norm(net, x, outputs, outputs, 3, activation="Relu")
