"""The cells as one would write them in PyTorch; not a conversion of the ONNX model."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention

from benchmarks.operators.cells import Arrays, Cell


def twin(cell: Cell, given: Arrays, device: str) -> tuple[Callable[..., torch.Tensor], list[torch.Tensor]]:
    """The operator as a function of its inputs, its weights on the device, and the inputs."""
    tensors = {name: torch.from_numpy(array).to(device) for name, array in given.items()}
    inputs = [tensors[name] for name in cell.inputs()]
    weight = tensors.get("w")
    before, after = cell.pads if cell.kind in ("conv", "depthwise", "avgpool") else (0, 0)
    groups = cell["c"] if cell.kind == "depthwise" else 1

    def windows(x: torch.Tensor) -> tuple[torch.Tensor, int]:
        """The input and the padding that is left to the operator: uneven padding is a step of its own in PyTorch."""
        return (x, before) if before == after else (F.pad(x, (before, after, before, after)), 0)

    match cell.kind:
        case "gemm":
            return torch.matmul, inputs
        case "matmul":
            return lambda x: torch.matmul(x, weight), inputs
        case "relu":
            return torch.relu, inputs
        case "mean":
            return lambda x: x.mean(cell.axes()), inputs
        case "conv" | "depthwise":

            def conv(x: torch.Tensor) -> torch.Tensor:
                padded, padding = windows(x)
                return F.conv2d(padded, weight, stride=cell["s"], padding=padding, groups=groups)

            return conv, inputs
        case _:

            def average(x: torch.Tensor) -> torch.Tensor:
                if before == after:
                    return F.avg_pool2d(x, cell["k"], cell["s"], before, count_include_pad=False)
                ones = F.pad(torch.ones_like(x[:1, :1]), (before, after, before, after))
                padded = F.pad(x, (before, after, before, after))
                return F.avg_pool2d(padded, cell["k"], cell["s"]) / F.avg_pool2d(ones, cell["k"], cell["s"])

            return average, inputs
