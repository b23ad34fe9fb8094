"""One engine with one cell in a process of its own: `python -m benchmarks.control_flow.worker ENGINE FOLDER`.

FOLDER holds cell.json, feeds.npz, model.onnx where there is one and, for an engine of ours, ENGINE.tw. PyTorch and JAX
make their formulation from the cell's seed. Control flow on data cannot be part of a CUDA graph, so PyTorch's kernels
are asked for one by one, by Python or by TorchScript.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.control_flow.cells import Cell
from benchmarks.control_flow.models import MODELS
from benchmarks.models.worker import onnxruntime
from benchmarks.results import OURS
from benchmarks.worker import Host, Tilewright, TorchLaunched, serve


def engine(name: str, folder: Path) -> Any:
    """The engine for the cell in a folder."""
    feeds = dict(np.load(folder / "feeds.npz"))
    if name.startswith(OURS):
        return Tilewright(folder, feeds, f"{name}.tw")
    if name == "onnxruntime":
        return onnxruntime(folder, feeds)
    about = json.loads((folder / "cell.json").read_text())
    target = about.pop("target")
    cell = Cell(**about)
    if name == "jax":
        return Jax(cell, feeds)
    device = target.partition(":")[0]
    if device == "cpu":
        run, inputs = twin(name, cell, feeds, device)
        return Host(lambda: [x.numpy() for x in run(*inputs)])
    return Launched(lambda: twin(name, cell, feeds, device))


class Launched(TorchLaunched):
    """PyTorch whose formulation is compiled already, in whatever way."""

    def __init__(self, make: Callable[[], tuple[Any, list[Any]]]) -> None:
        super().__init__(make, compiled=False)


def twin(name: str, cell: Cell, feeds: dict[str, Any], device: str) -> tuple[Callable[..., list[Any]], list[Any]]:
    """The model as a function of PyTorch that returns a list, and its inputs on the device.

    Raises:
        ValueError: there is no such engine.
    """
    import torch

    torch.set_grad_enabled(False)
    model, given = MODELS[cell.model], cell.given()
    module: Any
    if name == "torch-script":
        scripted = torch.jit.script(model.scripted_twin(given).eval().to(device))
        module = torch.jit.freeze(scripted)
    else:
        eager = model.library if name == "torch-eager" and model.library is not None else model.twin
        module = eager(given).eval().to(device)
        if name == "torch-compile":
            module = torch.compile(module)
        elif name != "torch-eager":
            raise ValueError(f"there is no engine {name}")

    def run(*inputs: Any) -> list[Any]:
        found = module(*inputs)
        return list(found) if isinstance(found, tuple) else [found]

    return run, [torch.from_numpy(x).to(device) for x in feeds.values()]


class Jax:
    """A compiled JAX function, timed by the clock until its results are there."""

    def __init__(self, cell: Cell, feeds: dict[str, Any]) -> None:
        # Else it takes three quarters of the device's memory, and other engines stand beside it.
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")  # no TF32
        jax.config.update("jax_enable_x64", True)  # words are int64
        self._run = jax.jit(MODELS[cell.model].lax(cell.given()))
        self._inputs = [jax.device_put(x) for x in feeds.values()]
        self._ready = jax.block_until_ready

    def _once(self) -> list[Any]:
        found = self._ready(self._run(*self._inputs))
        return list(found) if isinstance(found, tuple) else [found]

    def warm(self) -> None:
        for _ in range(3):
            self._once()

    def outputs(self) -> list[Any]:
        return [np.asarray(x) for x in self._once()]

    def measure(self, rounds: int) -> list[float]:
        return Host(self._once).measure(rounds)


if __name__ == "__main__":
    serve(engine)
