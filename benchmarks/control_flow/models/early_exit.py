"""A classifier with early exits (BranchyNet, Teerapittayanon et al., 2016): what follows an exit stands in a branch.

Residual blocks of two products; after each quarter of them a classifier, and if it is sure, its scores are the result.
A batch leaves when all of it is sure. A bias of the classifiers, far from zero at one exit, fixes where that is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.control_flow.flow import Flow, Given, floats

EXITS = 4
SURE = 0.9
"""The least probability of a class."""


def build(
    seed: int = 0, batch: int = 1, percent: int = 50, blocks: int = 16, width: int = 512, classes: int = 100
) -> Given:
    """Scores `[batch, classes]`, after `percent` of the blocks."""
    net = Flow("early_exit", seed, blocks=blocks)
    x = net.normal("x", batch, width)
    for n in range(blocks):
        net.param(f"up{n}", width, 2 * width)
        net.param(f"down{n}", 2 * width, width, scale=(4 * width) ** -0.5)
    sure = np.zeros((EXITS, classes), np.float32)
    sure[percent * EXITS // 100 - 1, 0] = 100
    net.given("bias", sure)
    for n in range(EXITS):
        net.param(f"head{n}", width, classes, scale=0.1 * width**-0.5)

    def quarter(x: str, n: int) -> str:
        for k in range(n * blocks // EXITS, (n + 1) * blocks // EXITS):
            inner = net.op("Relu", net.op("MatMul", x, f"up{k}"))
            x = net.op("Add", x, net.op("MatMul", inner, f"down{k}"))
        bias = net.op("Gather", "bias", net.const(n), axis=0)
        scores = net.op("Add", net.op("MatMul", x, f"head{n}"), bias)
        if n + 1 == EXITS:
            return str(scores)
        most = net.op("ReduceMax", net.op("Softmax", scores, axis=-1), net.const([1]), keepdims=0)
        test = net.op("Greater", net.op("ReduceMin", most, keepdims=0), net.const(SURE))
        return net.cond(test, floats(batch, classes), lambda: str(scores), lambda: quarter(x, n + 1))

    return net.finish({"y": (quarter(x, 0), floats(batch, classes))})


def twin(given: Given) -> Any:
    """The model as a PyTorch module."""
    import torch
    from torch import Tensor

    from benchmarks.control_flow.torch_twin import Twin

    class Quarter(torch.nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            own = range(n * given.sizes["blocks"] // EXITS, (n + 1) * given.sizes["blocks"] // EXITS)
            for name in ("up", "down"):
                weights = np.stack([given.params[f"{name}{k}"] for k in own])
                self.register_buffer(name, torch.from_numpy(weights))
            self.register_buffer("head", torch.from_numpy(given.params[f"head{n}"]))

        def forward(self, x: Tensor) -> Tensor:
            for k in range(self.up.shape[0]):
                x = x + torch.relu(x @ self.up[k]) @ self.down[k]
            return x

        def scores(self, x: Tensor) -> Tensor:
            return x @ self.head

    class EarlyExit(Twin):
        def __init__(self) -> None:
            super().__init__(given, "bias")
            self.parts = torch.nn.ModuleList(map(Quarter, range(EXITS)))

        def forward(self, x: Tensor) -> Tensor:
            scores = x
            done = False
            for n, part in enumerate(self.parts):
                if not done:
                    x = part(x)
                    scores = part.scores(x) + self.bias[n]
                    done = bool(torch.softmax(scores, dim=-1).amax(dim=1).min() > 0.9)
            return scores

    return EarlyExit()


def lax(given: Given) -> Any:
    """The model as a JAX function."""
    import jax

    from benchmarks.control_flow.jax_twin import constants

    p, blocks = constants(given), given.sizes["blocks"]

    def run(x: Any) -> Any:
        def quarter(x: Any, n: int) -> Any:
            for k in range(n * blocks // EXITS, (n + 1) * blocks // EXITS):
                x = x + jax.nn.relu(x @ p[f"up{k}"]) @ p[f"down{k}"]
            scores = x @ p[f"head{n}"] + p["bias"][n]
            if n + 1 == EXITS:
                return scores
            sure = jax.nn.softmax(scores, axis=-1).max(1).min() > SURE
            return jax.lax.cond(sure, lambda x, s: s, lambda x, s: quarter(x, n + 1), x, scores)

        return quarter(x, 0)

    return run
