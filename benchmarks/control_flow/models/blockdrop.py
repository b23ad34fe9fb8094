"""BlockDrop (Wu et al., 2018): a small network decides from the image which blocks of a residual network run.

Batch normalisations are folded into their convolutions. A batch has one decision per block, by the mean of its
images' scores. Biases of the decisions, far from zero, fix which blocks run; scores of the images are added to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.control_flow.flow import Flow, Given, floats
from tilewright.testing.models.net import Array


def executed(blocks: int, percent: int, seed: int) -> Array:
    """Which blocks run, `percent` of them as nearly as their number allows."""
    chosen = np.random.default_rng(seed).permutation(blocks)[: round(blocks * percent / 100)]
    return np.isin(np.arange(blocks), chosen)


def convolved(net: Flow, x: str, name: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
    """A convolution with a named weight and bias that keeps the image's size, divided by the stride."""
    weight = net.param(f"{name}_w", outputs, inputs, kernel, kernel, scale=(inputs * kernel**2) ** -0.5)
    pads = [kernel // 2] * 4
    bias = net.param(f"{name}_b", outputs, scale=0.1)
    return str(net.op("Conv", x, weight, bias, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads))


def _block(net: Flow, x: str, skip: str, number: int, inputs: int, outputs: int, stride: int) -> str:
    inner = net.op("Relu", convolved(net, x, f"block{number}_0", inputs, outputs, 3, stride))
    return str(net.op("Add", convolved(net, inner, f"block{number}_1", outputs, outputs, 3), skip))


def build(
    seed: int = 0,
    batch: int = 1,
    percent: int = 50,
    blocks: Sequence[int] = (5, 5, 5),
    widths: Sequence[int] = (16, 32, 64),
    image: int = 32,
    classes: int = 10,
) -> Given:
    """Scores `[batch, classes]`."""
    net = Flow("blockdrop", seed, blocks=tuple(blocks))
    x = net.normal("x", batch, 3, image, image)
    seen = x
    for n, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False)):
        seen = net.op("Relu", convolved(net, seen, f"policy{n}", inputs, outputs, 3, 2))
    total = sum(blocks)
    pooled = net.op("ReduceMean", seen, net.const([2, 3]), keepdims=0)
    bias = net.given("policy_bias", np.where(executed(total, percent, seed), 100, -100).astype(np.float32))
    scores = net.op("Add", net.op("MatMul", pooled, net.param("policy", widths[-1], total)), bias)
    runs = net.op("Greater", net.op("ReduceMean", scores, net.const([0]), keepdims=0), net.const(0.0))
    x = net.op("Relu", convolved(net, x, "stem", 3, widths[0], 3))
    width, number = widths[0], 0
    for stage, (count, outputs) in enumerate(zip(blocks, widths, strict=True)):
        for first in (True, *[False] * (count - 1)):
            stride = 2 if first and stage else 1
            image = image // stride
            skip = convolved(net, x, f"down{stage}", width, outputs, 1, stride) if stride > 1 else x
            gate = net.op("Gather", runs, net.const(number), axis=0)

            sizes = (number, width, outputs, stride)
            kind = floats(batch, outputs, image, image)
            x = net.op("Relu", net.cond(gate, kind, partial(_block, net, x, skip, *sizes), partial(str, skip)))
            width, number = outputs, number + 1
    pooled = net.op("ReduceMean", x, net.const([2, 3]), keepdims=0)
    return net.finish({"y": (net.op("MatMul", pooled, net.param("head", widths[-1], classes)), floats(batch, classes))})


def twin(given: Given) -> Any:
    """The model as a PyTorch module."""
    import torch
    from torch import Tensor

    from benchmarks.control_flow.torch_twin import Conv, Twin

    class Block(torch.nn.Module):
        def __init__(self, n: int, stage: int, stride: int) -> None:
            super().__init__()
            self.first, self.second = Conv(given, f"block{n}_0", stride), Conv(given, f"block{n}_1")
            self.down = Conv(given, f"down{stage}", stride) if stride > 1 else torch.nn.Identity()

        def forward(self, x: Tensor, runs: Tensor) -> Tensor:
            skip = self.down(x)
            if bool(runs):
                skip = self.second(torch.relu(self.first(x))) + skip
            return torch.relu(skip)

    class BlockDrop(Twin):
        def __init__(self) -> None:
            super().__init__(given, "policy", "policy_bias", "head")
            self.seen = torch.nn.ModuleList(Conv(given, f"policy{n}", 2) for n in range(len(given.sizes["blocks"])))
            stages = [(n, k) for n, count in enumerate(given.sizes["blocks"]) for k in range(count)]
            self.stem = Conv(given, "stem")
            self.parts = torch.nn.ModuleList(
                Block(n, stage, 2 if stage and not k else 1) for n, (stage, k) in enumerate(stages)
            )

        def forward(self, x: Tensor) -> Tensor:
            seen = x
            for layer in self.seen:
                seen = torch.relu(layer(seen))
            runs = (seen.mean(dim=[2, 3]) @ self.policy + self.policy_bias).mean(dim=0) > 0
            x = torch.relu(self.stem(x))
            for n, part in enumerate(self.parts):
                x = part(x, runs[n])
            return x.mean(dim=[2, 3]) @ self.head

    return BlockDrop()


def lax(given: Given) -> Any:
    """The model as a JAX function."""
    import jax

    from benchmarks.control_flow.jax_twin import constants, conv

    p, blocks = constants(given), given.sizes["blocks"]

    def run(x: Any) -> Any:
        seen = x
        for n in range(len(blocks)):
            seen = jax.nn.relu(conv(p, f"policy{n}", seen, 2))
        runs = (seen.mean((2, 3)) @ p["policy"] + p["policy_bias"]).mean(0) > 0
        x = jax.nn.relu(conv(p, "stem", x))
        number = 0
        for stage, count in enumerate(blocks):
            for first in (True, *[False] * (count - 1)):
                stride = 2 if first and stage else 1
                skip = conv(p, f"down{stage}", x, stride) if stride > 1 else x

                def block(x: Any, skip: Any, n: int = number, stride: int = stride) -> Any:
                    return conv(p, f"block{n}_1", jax.nn.relu(conv(p, f"block{n}_0", x, stride))) + skip

                x = jax.nn.relu(jax.lax.cond(runs[number], block, lambda x, skip: skip, x, skip))
                number += 1
        return x.mean((2, 3)) @ p["head"]

    return run
