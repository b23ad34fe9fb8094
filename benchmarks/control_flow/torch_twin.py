"""What the models as PyTorch modules share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.control_flow.flow import Given


class Twin(torch.nn.Module):
    """A module whose weights are buffers, and whose sizes are attributes, with the names that they have in `Given`.

    Args:
        names: of the weights that it holds itself; by default all.
    """

    def __init__(self, given: Given, *names: str) -> None:
        super().__init__()
        for name in names or given.params:
            self.register_buffer(name, torch.from_numpy(given.params[name]))
        for name, size in given.sizes.items():
            setattr(self, name, size)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


def cell(x: Tensor, h: Tensor, c: Tensor, w: Tensor, u: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM."""
    return gates(x @ w + h @ u + b, c)


def gates(total: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The new hidden state and cell from the sums of the gates."""
    i, f, g, o = torch.chunk(total, 4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


class Conv(torch.nn.Module):
    """A convolution that keeps the image's size, divided by the stride."""

    def __init__(self, given: Given, name: str, stride: int = 1) -> None:
        super().__init__()
        weight, bias = (torch.from_numpy(given.params[f"{name}_{x}"]) for x in "wb")
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.stride, self.padding = stride, weight.shape[-1] // 2

    def forward(self, x: Tensor) -> Tensor:
        return torch.conv2d(x, self.weight, self.bias, [self.stride] * 2, [self.padding] * 2)
