"""A PyTorch model that is a `while` with an `if` inside, exported to ONNX, with inputs and PyTorch's outputs for them.

    pip install torch==2.13.0 onnxscript
    python tests/end_to_end/torch_while.py

writes `models/torch_while.onnx` and `models/torch_while.npz` anew. The model is scripted, which the exporter turns
into `Loop` and `If`: the newer one, behind `torch.export`, fails on `while_loop` (2.13).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parent / "models"


class Shrink(torch.nn.Module):
    """Turns a vector, or halves and shifts it, until its elements are small; counts the steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.turn = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, limit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The vector and the number of steps."""
        steps = torch.zeros([], dtype=torch.int64)
        while bool(x.abs().sum() > limit):
            if bool(x.sum() > 0):
                x = torch.tanh(self.turn(x)) * 0.9
            else:
                x = 0.5 * x + 0.1
            steps = steps + 1
        return x, steps


def cases() -> list[tuple[Any, Any]]:
    """Inputs: of none, few and many steps."""
    rng = np.random.default_rng(0)
    limits = [100.0, 4.0, 2.0, 1.0, 0.7]
    return [(rng.normal(0, 3, (1, 4)).astype(np.float32), np.float32(limit)) for limit in limits]


def outputs(x: Any, limit: Any) -> tuple[Any, Any]:
    """PyTorch's."""
    with torch.no_grad():
        y, steps = Shrink().eval()(torch.from_numpy(x), torch.tensor(limit))
    return y.numpy(), steps.numpy()


def export(path: Path) -> None:
    """Writes the model."""
    example = tuple(map(torch.tensor, cases()[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            torch.jit.script(Shrink().eval()),
            example,
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["x", "limit"],
            output_names=["y", "steps"],
        )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    export(FOLDER / "torch_while.onnx")
    stored: dict[str, Any] = {}
    for number, case in enumerate(cases()):
        found = (*case, *outputs(*case))
        stored |= {f"{name}{number}": x for name, x in zip(("x", "limit", "y", "steps"), found, strict=True)}
    np.savez(FOLDER / "torch_while.npz", **stored)
