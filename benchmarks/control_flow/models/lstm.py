"""LSTM: layers on each other, each a loop over the steps behind one product of all its inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.control_flow.flow import Flow, Given, floats, lstm_gates


def build(seed: int = 0, batch: int = 1, layers: int = 10, steps: int = 64, hidden: int = 256) -> Given:
    """The rows `[steps, batch, hidden]` of the last layer."""
    net = Flow("lstm", seed, layers=layers)
    rows = net.normal("x", steps, batch, hidden)
    state = floats(batch, hidden)
    for kind in ("w", "u"):
        net.params[kind] = np.stack(
            [net.params[net.param(f"{kind}{n}", hidden, 4 * hidden)] for n in range(layers)]
        )
    net.params["b"] = np.stack([net.params[net.param(f"b{n}", 4 * hidden, scale=0.1)] for n in range(layers)])
    for n in range(layers):
        zero = net.const(np.zeros((batch, hidden), np.float32))

        shares = net.op("Add", net.op("MatMul", rows, f"w{n}"), f"b{n}")

        def trip(i: str, h: str, c: str, shares: str = shares, n: int = n) -> Any:
            total = net.op("Add", net.op("Gather", shares, i, axis=0), net.op("MatMul", h, f"u{n}"))
            after = lstm_gates(net, total, c)
            return None, after, [(after[0], state)]

        rows = net.loop(steps, [(zero, state), (zero, state)], trip)[2]
    return net.finish({"y": (rows, floats(steps, batch, hidden))})


def twin(given: Given) -> Any:
    """The model as a PyTorch module."""
    import torch
    from torch import Tensor

    from benchmarks.control_flow.torch_twin import Twin, gates

    class Lstm(Twin):
        def forward(self, x: Tensor) -> Tensor:
            for n in range(self.layers):
                h = torch.zeros_like(x[0])
                c = torch.zeros_like(h)
                shares = x @ self.w[n] + self.b[n]
                rows: list[Tensor] = []
                for t in range(x.shape[0]):
                    h, c = gates(shares[t] + h @ self.u[n], c)
                    rows.append(h)
                x = torch.stack(rows)
            return x

    return Lstm(given)


def library(given: Given) -> Any:
    """PyTorch's own LSTM (cuDNN's on a GPU)."""
    import torch

    class Library(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            w, u, b = (torch.from_numpy(given.params[x]) for x in "wub")
            self.lstm = torch.nn.LSTM(w.shape[1], u.shape[1], len(w))
            for n in range(len(w)):
                own = (w[n].t(), u[n].t(), b[n], torch.zeros_like(b[n]))
                for name, data in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), own, strict=True):
                    getattr(self.lstm, f"{name}_l{n}").data.copy_(data)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.lstm(x)[0]
            return found

    return Library()


def lax(given: Given) -> Any:
    """The model as a JAX function."""
    import jax
    import jax.numpy as jnp

    from benchmarks.control_flow.jax_twin import constants, gates

    p = constants(given, "w", "u", "b")

    def run(x: Any) -> Any:
        def layer(rows: Any, weights: Any) -> Any:
            (w, u, b), zero = weights, jnp.zeros_like(rows[0])

            def step(state: Any, share: Any) -> Any:
                h, c = state
                state = gates(share + h @ u, c)
                return state, state[0]

            return jax.lax.scan(step, (zero, zero), rows @ w + b)[1], None

        return jax.lax.scan(layer, x, (p["w"], p["u"], p["b"]))[0]

    return run
