"""SkipNet (Wang et al., 2018): ResNet-101 in which a recurrent gate decides before each block whether it runs.

The gate is one LSTM over the blocks; it sees the pooled image through a projection of the stage. Batch normalisations
are folded into their convolutions. A bias for each block, far from zero, fixes which blocks run; the gate's score is
added to it. A batch has one decision per block, by the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.control_flow.flow import Flow, Given, floats, lstm_cell
from benchmarks.control_flow.models.blockdrop import convolved, executed


def _block(net: Flow, x: str, skip: str, number: int, inputs: int, inner: int, stride: int) -> str:
    y = net.op("Relu", convolved(net, x, f"block{number}_0", inputs, inner, 1))
    y = net.op("Relu", convolved(net, y, f"block{number}_1", inner, inner, 3, stride))
    return str(net.op("Add", convolved(net, y, f"block{number}_2", inner, 4 * inner, 1), skip))


def build(
    seed: int = 0,
    batch: int = 1,
    percent: int = 50,
    blocks: Sequence[int] = (3, 4, 23, 3),
    width: int = 64,
    image: int = 224,
    classes: int = 1000,
    gate: int = 10,
) -> Given:
    """Scores `[batch, classes]`. The first block runs always, every other has a gate."""
    net = Flow("skipnet", seed, blocks=tuple(blocks), gate=gate)
    x = net.normal("x", batch, 3, image, image)
    x = net.op("Relu", convolved(net, x, "stem", 3, width, 7, 2))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    total = sum(blocks) - 1
    bias = net.given("gate_bias", np.where(executed(total, percent, seed), 100, -100).astype(np.float32))
    w, u, b = net.param("gate_w", gate, 4 * gate), net.param("gate_u", gate, 4 * gate), net.param("gate_b", 4 * gate)
    score = net.param("gate_out", gate, 1)
    h = c = net.const(np.zeros((batch, gate), np.float32))
    inputs, image, number = width, image // 4, 0
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        outputs = 4 * inner
        for first in (True, *[False] * (count - 1)):
            stride = 2 if first and stage else 1
            side = image // stride
            skip = convolved(net, x, f"down{stage}", inputs, outputs, 1, stride) if first else x

            block = partial(_block, net, x, skip, number, inputs, inner, stride)
            if number:
                look = f"see{stage}" if first else f"seen{stage}"
                if look not in net.params:
                    net.param(look, inputs, gate)
                seen = net.op("MatMul", net.op("ReduceMean", x, net.const([2, 3]), keepdims=0), look)
                h, c = lstm_cell(net, seen, h, c, w, u, b)
                found = net.op("ReduceMean", net.op("MatMul", h, score), keepdims=0)
                own = net.op("Gather", bias, net.const(number - 1), axis=0)
                runs = net.op("Greater", net.op("Add", found, own), net.const(0.0))
                kind = floats(batch, outputs, side, side)
                x = net.cond(runs, kind, block, partial(str, skip))
            else:
                x = block()
            x = net.op("Relu", x)
            inputs, image, number = outputs, side, number + 1
    pooled = net.op("ReduceMean", x, net.const([2, 3]), keepdims=0)
    return net.finish({"y": (net.op("MatMul", pooled, net.param("head", inputs, classes)), floats(batch, classes))})


def twin(given: Given) -> Any:
    """The model as a PyTorch module."""
    import torch
    from torch import Tensor

    from benchmarks.control_flow.torch_twin import Conv, Twin, cell

    class Block(torch.nn.Module):
        def __init__(self, n: int, stage: int, first: bool) -> None:
            super().__init__()
            stride = 2 if first and stage else 1
            self.parts = torch.nn.Sequential(
                *(Conv(given, f"block{n}_0"), torch.nn.ReLU()),
                *(Conv(given, f"block{n}_1", stride), torch.nn.ReLU()),
                Conv(given, f"block{n}_2"),
            )
            self.down = Conv(given, f"down{stage}", stride) if first else torch.nn.Identity()
            see = given.params.get(f"see{stage}" if first else f"seen{stage}", np.zeros((1, 1), np.float32))
            self.register_buffer("see", torch.from_numpy(see))

        def forward(self, x: Tensor, runs: bool) -> Tensor:
            skip = self.down(x)
            if runs:
                skip = self.parts(x) + skip
            return torch.relu(skip)

        def looked(self, x: Tensor) -> Tensor:
            return x.mean(dim=[2, 3]) @ self.see

    class SkipNet(Twin):
        def __init__(self) -> None:
            super().__init__(given, "gate_w", "gate_u", "gate_b", "gate_out", "gate_bias", "head")
            stages = [(n, k) for n, count in enumerate(given.sizes["blocks"]) for k in range(count)]
            self.stem = Conv(given, "stem", 2)
            self.parts = torch.nn.ModuleList(Block(n, stage, not k) for n, (stage, k) in enumerate(stages))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.nn.functional.max_pool2d(torch.relu(self.stem(x)), 3, 2, 1)
            h = torch.zeros([x.shape[0], self.gate], device=x.device)
            c = torch.zeros_like(h)
            for n, part in enumerate(self.parts):
                runs = True
                if n > 0:
                    h, c = cell(part.looked(x), h, c, self.gate_w, self.gate_u, self.gate_b)
                    runs = bool((h @ self.gate_out).mean() + self.gate_bias[n - 1] > 0)
                x = part(x, runs)
            return x.mean(dim=[2, 3]) @ self.head

    return SkipNet()


def lax(given: Given) -> Any:
    """The model as a JAX function."""
    import jax
    import jax.numpy as jnp

    from benchmarks.control_flow.jax_twin import cell, constants, conv

    p, relu = constants(given), jax.nn.relu

    def run(x: Any) -> Any:
        x = relu(conv(p, "stem", x, 2))
        window = ((0, 0), (0, 0), (1, 1), (1, 1))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 3, 3), (1, 1, 2, 2), window)
        h = c = jnp.zeros((x.shape[0], given.sizes["gate"]), x.dtype)
        number = 0
        for stage, count in enumerate(given.sizes["blocks"]):
            for first in (True, *[False] * (count - 1)):
                stride = 2 if first and stage else 1
                skip = conv(p, f"down{stage}", x, stride) if first else x

                def block(x: Any, skip: Any, n: int = number, stride: int = stride) -> Any:
                    y = relu(conv(p, f"block{n}_0", x))
                    return conv(p, f"block{n}_2", relu(conv(p, f"block{n}_1", y, stride))) + skip

                if number:
                    seen = x.mean((2, 3)) @ p[f"see{stage}" if first else f"seen{stage}"]
                    h, c = cell(seen, h, c, p["gate_w"], p["gate_u"], p["gate_b"])
                    runs = (h @ p["gate_out"]).mean() + p["gate_bias"][number - 1] > 0
                    x = relu(jax.lax.cond(runs, block, lambda x, skip: skip, x, skip))
                else:
                    x = relu(block(x, skip))
                number += 1
        return x.mean((2, 3)) @ p["head"]

    return run
