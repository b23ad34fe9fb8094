"""Unrolled recurrences: a deep LSTM, and an encoder and decoder of LSTMs (Hochreiter and Schmidhuber, 1997).

All steps of a layer share its weights. The gates of a step are one product with the input and one with the last output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from tilewright.testing.cases import Case
from tilewright.testing.models.net import Net


@dataclass(frozen=True)
class Layer:
    """Weights of an LSTM, with the input, forget, cell and output gates one after the other, as PyTorch has them.

    Attributes:
        to_input: `[4 · hidden, inputs]`.
        to_hidden: `[4 · hidden, hidden]`.
        bias: `[4 · hidden]`.
    """

    to_input: str
    to_hidden: str
    bias: str

    @classmethod
    def drawn(cls, net: Net, inputs: int, hidden: int) -> Layer:
        """Random weights; forget gates are rather open. Larger weights would make deep stacks chaotic."""
        to_input = net.weight(4 * hidden, inputs)
        to_hidden = net.weight(4 * hidden, hidden)
        bias = net.rng.standard_normal(4 * hidden) * 0.1
        bias[hidden : 2 * hidden] += 1
        return cls(to_input, to_hidden, net.const(bias))

    def step(self, net: Net, x: str, output: str, cell: str) -> tuple[str, str]:
        """Output and cell after a step, all `[batch, hidden]`."""
        given = net.op("Gemm", x, self.to_input, self.bias, transB=1)
        gates = net.op("Add", given, net.op("Gemm", output, self.to_hidden, transB=1))
        enter, forget, candidate, leave = net.op("Split", gates, count=4, axis=1)
        kept = net.op("Mul", net.op("Sigmoid", forget), cell)
        added = net.op("Mul", net.op("Sigmoid", enter), net.op("Tanh", candidate))
        cell = net.op("Add", kept, added)
        return net.op("Mul", net.op("Sigmoid", leave), net.op("Tanh", cell)), cell

    def run(self, net: Net, xs: Sequence[str], zeros: str) -> list[str]:
        """Outputs of all steps from a state of zeros."""
        output = cell = zeros
        outputs = []
        for x in xs:
            output, cell = self.step(net, x, output, cell)
            outputs.append(output)
        return outputs


def frames(net: Net, x: str, count: int, axis: int) -> list[str]:
    """The parts of a sequence of at least two, without their axis."""
    places = net.const([axis])
    return [net.op("Squeeze", part, places) for part in net.op("Split", x, count=count, axis=axis)]


def zero_state(net: Net, batch: int, hidden: int) -> str:
    """Zeros `[batch, hidden]`, for outputs and cells before the first step."""
    return net.const(np.zeros((batch, hidden), np.float32))


def lstm(seed: int = 0, batch: int = 1, steps: int = 100, hidden: int = 256, layers: int = 10) -> Case:
    """`[steps, batch, hidden]` to the last layer's output after the last step."""
    net = Net("lstm", seed)
    xs = frames(net, net.normal("sequence", steps, batch, hidden), steps, 0)
    zeros = zero_state(net, batch, hidden)
    for _ in range(layers):
        xs = Layer.drawn(net, hidden, hidden).run(net, xs, zeros)
    return net.case({"output": xs[-1]})


def lstm_layers(model: onnx.ModelProto) -> list[Layer]:
    """Names of the weights of what `lstm` makes, layer by layer."""
    gemms = [n.input for n in model.graph.node if n.op_type == "Gemm"]
    of_inputs = dict.fromkeys(tuple(x[1:]) for x in gemms if len(x) == 3)
    of_outputs = dict.fromkeys(x[1] for x in gemms if len(x) == 2)
    return [Layer(w, u, b) for (w, b), u in zip(of_inputs, of_outputs, strict=True)]


def seq2seq(
    seed: int = 0,
    batch: int = 1,
    steps: int = 100,
    decoded: int = 30,
    hidden: int = 128,
    encoders: int = 8,
    decoders: int = 4,
) -> Case:
    """`[steps, batch, hidden]` to the decoder's last output.

    Args:
        decoded: steps of the decoder, of which each reads what the one before gave, the first what the encoder gave.
        encoders: layers of the encoder.
        decoders: layers of the decoder.
    """
    net = Net("seq2seq", seed)
    xs = frames(net, net.normal("sequence", steps, batch, hidden), steps, 0)
    zeros = zero_state(net, batch, hidden)
    for _ in range(encoders):
        xs = Layer.drawn(net, hidden, hidden).run(net, xs, zeros)
    x = xs[-1]
    layers = [Layer.drawn(net, hidden, hidden) for _ in range(decoders)]
    states = [(zeros, zeros)] * decoders
    for _ in range(decoded):
        for number, layer in enumerate(layers):
            states[number] = layer.step(net, x, *states[number])
            x = states[number][0]
    return net.case({"output": x})
