"""NASRNN: one layer of the recurrent cell that a search found (Zoph and Le, 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.control_flow.flow import Flow, Given, floats

OUTER = ("Sigmoid", "Relu", "Sigmoid", "Relu", "Tanh", "Sigmoid", "Tanh", "Sigmoid")
"""Of the eight gates; the fourth multiplies its two shares, the others add them."""


def build(seed: int = 0, batch: int = 1, steps: int = 1000, hidden: int = 256) -> Given:
    """The last hidden state `[batch, hidden]`."""
    net = Flow("nasrnn", seed)
    x = net.normal("x", steps, batch, hidden)
    w, u = net.param("w", hidden, 8 * hidden), net.param("u", hidden, 8 * hidden)
    shares = net.op("MatMul", x, w)
    zero, state = net.const(np.zeros((batch, hidden), np.float32)), floats(batch, hidden)

    def trip(i: str, h: str, c: str) -> Any:
        a = net.op("Split", net.op("Gather", shares, i, axis=0), count=8, axis=-1, num_outputs=8)
        b = net.op("Split", net.op("MatMul", h, u), count=8, axis=-1, num_outputs=8)
        pairs = enumerate(zip(OUTER, a, b, strict=True))
        g = [net.op(kind, net.op("Mul" if n == 3 else "Add", p, q)) for n, (kind, p, q) in pairs]
        left = net.op("Tanh", net.op("Add", net.op("Tanh", net.op("Mul", g[0], g[1])), c))
        cell = net.op("Mul", left, net.op("Tanh", net.op("Add", g[2], g[3])))
        right = net.op("Add", net.op("Tanh", net.op("Mul", g[4], g[5])), net.op("Sigmoid", net.op("Add", g[6], g[7])))
        return None, (net.op("Tanh", net.op("Mul", cell, net.op("Tanh", right))), cell), []

    return net.finish({"y": (net.loop(steps, [(zero, state), (zero, state)], trip)[0], state)})


def twin(given: Given) -> Any:
    """The model as a PyTorch module."""
    import torch
    from torch import Tensor

    from benchmarks.control_flow.torch_twin import Twin

    class NasRnn(Twin):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros_like(x[0])
            c = torch.zeros_like(h)
            shares = x @ self.w
            for t in range(x.shape[0]):
                a = torch.chunk(shares[t], 8, dim=-1)
                b = torch.chunk(h @ self.u, 8, dim=-1)
                first = torch.tanh(torch.sigmoid(a[0] + b[0]) * torch.relu(a[1] + b[1]))
                second = torch.tanh(torch.sigmoid(a[2] + b[2]) + torch.relu(a[3] * b[3]))
                third = torch.tanh(torch.tanh(a[4] + b[4]) * torch.sigmoid(a[5] + b[5]))
                fourth = torch.sigmoid(torch.tanh(a[6] + b[6]) + torch.sigmoid(a[7] + b[7]))
                c = torch.tanh(first + c) * second
                h = torch.tanh(c * torch.tanh(third + fourth))
            return h

    return NasRnn(given)


def lax(given: Given) -> Any:
    """The model as a JAX function."""
    import jax
    import jax.numpy as jnp

    from benchmarks.control_flow.jax_twin import constants

    p = constants(given)
    sigmoid, relu, tanh = jax.nn.sigmoid, jax.nn.relu, jnp.tanh

    def run(x: Any) -> Any:
        shares = x @ p["w"]

        def step(state: Any, row: Any) -> Any:
            h, c = state
            a, b = jnp.split(row, 8, axis=-1), jnp.split(h @ p["u"], 8, axis=-1)
            first = tanh(sigmoid(a[0] + b[0]) * relu(a[1] + b[1]))
            second = tanh(sigmoid(a[2] + b[2]) + relu(a[3] * b[3]))
            third = tanh(tanh(a[4] + b[4]) * sigmoid(a[5] + b[5]))
            fourth = sigmoid(tanh(a[6] + b[6]) + sigmoid(a[7] + b[7]))
            c = tanh(first + c) * second
            return (tanh(c * tanh(third + fourth)), c), None

        zero = jnp.zeros_like(x[0])
        return jax.lax.scan(step, (zero, zero), shares)[0][0]

    return run
