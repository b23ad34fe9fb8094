"""DeepSpeech2's layout with LSTMs: convolutions, recurrences, a classifier of each frame (Amodei et al., 2016).

In the form of Rammer's benchmark: ReLU6 before the batch normalisation of each convolution, LSTMs in one direction.
"""

from __future__ import annotations

from benchmarks.models.graphs.layers import HE, activated, batch_norm, conv, gemm
from benchmarks.models.graphs.recurrent import Layer, frames, zero_state
from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net

CONVOLUTIONS = (((41, 11), (2, 2)), ((21, 11), (2, 1)))
"""Windows and strides, along time and frequency."""


def deepspeech2(
    seed: int = 0,
    batch: int = 1,
    times: int = 300,
    frequencies: int = 171,
    channels: int = 32,
    hidden: int = 256,
    layers: int = 7,
    classes: int = 29,
) -> Case:
    """A spectrogram `[batch, 1, times, frequencies]` to logits `[batch · times / 4, classes]`, frame by frame."""
    net = Net("deepspeech2", seed)
    x, inputs = net.normal("spectrogram", batch, 1, times, frequencies), 1
    for window, (down, right) in CONVOLUTIONS:
        y = conv(net, x, inputs, channels, window, (down, right), bias=False, gain=HE)
        x, inputs = batch_norm(net, activated(net, y, "Relu6"), channels), channels
        times, frequencies = (times - 1) // down + 1, (frequencies - 1) // right + 1
    width = channels * frequencies
    x = net.op("Transpose", x, perm=[0, 2, 3, 1])
    xs = frames(net, net.op("Reshape", x, net.const([batch, times, width])), times, 1)
    zeros = zero_state(net, batch, hidden)
    for number in range(layers):
        xs = Layer.drawn(net, hidden if number else width, hidden).run(net, xs, zeros)
    x = batch_norm(net, net.op("Concat", *xs, axis=0), hidden)
    return net.case({"logits": gemm(net, x, hidden, classes)})
