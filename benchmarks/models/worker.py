"""One engine with one cell in a process of its own: `python -m benchmarks.models.worker ENGINE FOLDER`.

FOLDER holds cell.json, model.onnx, feeds.npz and, for an engine of ours, ENGINE.tw.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import CUDNN_LSTM, OURS
from benchmarks.worker import MODES, Host, Tilewright, Torch, TorchLaunched, serve

LAUNCHED = "torch-eager-launched"
"""PyTorch without a CUDA graph, which is what Welder's paper compares with."""


def engine(name: str, folder: Path) -> Any:
    """The engine for the cell in a folder."""
    feeds = dict(np.load(folder / "feeds.npz"))
    if name.startswith(OURS):
        return Tilewright(folder, feeds, f"{name}.tw")
    if name == "onnxruntime":
        return onnxruntime(folder, feeds)
    if name == "torch-cpu":
        module, inputs = converted(folder, feeds, "cpu")
        return Host(lambda: list(module(*inputs)))

    if name == CUDNN_LSTM:
        return Torch(lambda: recurrent(folder, feeds, "cuda"), False)

    def make() -> tuple[Any, list[Any]]:
        return converted(folder, feeds, "cuda")

    if name == LAUNCHED:
        return TorchLaunched(make, False)
    return Torch(make, *MODES[name])


def onnxruntime(folder: Path, feeds: dict[str, Any]) -> Host:
    """ONNX Runtime on the CPU, with as many threads as `OMP_NUM_THREADS` says."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return Host(lambda: session.run(None, feeds))


def converted(folder: Path, feeds: dict[str, Any], device: str) -> tuple[Any, list[Any]]:
    """The model as a PyTorch module, and its inputs on a device."""
    import onnx
    import torch

    from benchmarks.onnx_torch import OnnxModule

    torch.set_grad_enabled(False)
    module = OnnxModule(onnx.load(folder / "model.onnx"), feeds, device).eval()
    return module, [torch.from_numpy(feeds[x]).to(device) for x in module.inputs]


def recurrent(folder: Path, feeds: dict[str, Any], device: str) -> tuple[Any, list[Any]]:
    """`torch.nn.LSTM`, which is cuDNN's on a GPU, with the weights of the cell's model, and its input on a device.

    Raises:
        NotImplementedError: the cell is of another model than `lstm`.
    """
    import onnx
    import torch
    from onnx import numpy_helper

    from benchmarks.models.graphs.recurrent import lstm_layers

    kind = json.loads((folder / "cell.json").read_text())["model"]
    if kind != "lstm":
        raise NotImplementedError(f"{CUDNN_LSTM} runs the model lstm, not {kind}")
    torch.set_grad_enabled(False)
    model = onnx.load(folder / "model.onnx")
    weights = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    x = torch.from_numpy(feeds["sequence"]).to(device)
    layers, size = lstm_layers(model), x.shape[-1]
    module = torch.nn.LSTM(size, size, len(layers), dtype=x.dtype)
    for layer, parameters in zip(layers, module.all_weights, strict=True):
        to_input, to_hidden, bias, unused = parameters  # PyTorch has a second bias
        to_input.copy_(weights[layer.to_input])
        to_hidden.copy_(weights[layer.to_hidden])
        bias.copy_(weights[layer.bias])
        unused.zero_()
    module = module.to(device).eval()
    return (lambda given: [module(given)[0][-1]]), [x]


if __name__ == "__main__":
    serve(engine)
