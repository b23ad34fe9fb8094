"""One engine with one cell in a process of its own: `python -m benchmarks.operators.worker ENGINE FOLDER`.

FOLDER holds cell.json, places.npy (which elements of the result are compared), ENGINE.tw for engines of ours and
ENGINE.so for those of TVM. Inputs and weights are drawn from the seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.operators import tvm_engines
from benchmarks.operators.cells import Arrays, Cell, arrays, model, result_shape
from benchmarks.worker import MODES, Host, Tilewright, Torch, serve


def tvm_on_host(cell: Cell, given: Arrays, library: Path) -> Host:
    """A library of TVM's, with as many threads as `TVM_NUM_THREADS` says."""
    import tvm

    from benchmarks.operators.tvm_twin import arguments

    function = tvm.runtime.load_module(str(library))["main"]
    tensors = [tvm.runtime.tensor(x) for x in arguments(cell, given)]
    result = tvm.runtime.empty(result_shape(cell), cell.dtype)

    class Library(Host):
        def outputs(self) -> list[Any]:
            self._run()
            return [result.numpy()]

    return Library(lambda: function(*tensors, result))


def tvm_on_gpu(cell: Cell, given: Arrays, library: Path) -> Torch:
    """A library of TVM's on memory and streams of PyTorch's, so that its launches are captured as PyTorch's are."""
    import torch
    import tvm
    import tvm_ffi

    from benchmarks.operators.tvm_twin import arguments

    function = tvm.runtime.load_module(str(library))["main"]

    def make() -> tuple[Any, list[Any]]:
        arrays = [torch.from_numpy(x).cuda() for x in arguments(cell, given)]
        result = torch.empty(result_shape(cell), dtype=arrays[0].dtype, device="cuda")
        tensors = [tvm.runtime.from_dlpack(x) for x in (*arrays, result)]
        device = tvm_ffi.device("cuda", 0)

        def run(*_: Any) -> list[Any]:
            with tvm_ffi.use_raw_stream(device, torch.cuda.current_stream().cuda_stream):
                function(*tensors)
            return [result]

        return run, arrays

    return Torch(make, False)


def onnxruntime(cell: Cell, given: Arrays) -> Host:
    """ONNX Runtime on the CPU, with as many threads as `OMP_NUM_THREADS` says."""
    import os

    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    weights = {name: given[name] for name in cell.weights()}
    made = model(cell, weights).SerializeToString()
    session = ort.InferenceSession(made, options, providers=["CPUExecutionProvider"])
    feeds = {name: given[name] for name in cell.inputs()}
    return Host(lambda: session.run(None, feeds)[0])


def numpy(cell: Cell, given: Arrays) -> Host:
    """NumPy, where one call does it."""
    x = given["x"]
    match cell.kind:
        case "gemm" | "matmul":
            return Host(lambda: x @ given["w"])
        case "relu":
            return Host(lambda: np.maximum(x, 0))
        case "mean":
            return Host(lambda: x.mean(cell.axes()))
        case kind:
            raise NotImplementedError(f"NumPy has no call for the kind {kind}")


def engine(name: str, folder: Path) -> Any:
    """The engine for the cell in a folder."""
    cell = read_cell(folder)
    given = arrays(cell)
    if name.startswith("tilewright"):
        return Tilewright(folder, {x: given[x] for x in cell.inputs()}, f"{name}.tw")
    if name in ("onnxruntime", "numpy"):
        return {"onnxruntime": onnxruntime, "numpy": numpy}[name](cell, given)
    if name in tvm_engines.NAMES:
        on_gpu = json.loads((folder / "cell.json").read_text())["target"].startswith("cuda")
        return (tvm_on_gpu if on_gpu else tvm_on_host)(cell, given, folder / f"{name}.so")
    if name == "torch-cpu":
        import torch

        from benchmarks.operators.twin import twin

        torch.set_grad_enabled(False)
        run, inputs = twin(cell, given, "cpu")
        return Host(lambda: run(*inputs))

    def make() -> tuple[Any, list[Any]]:
        from benchmarks.operators.twin import twin

        run, inputs = twin(cell, given, "cuda")
        return (lambda *x: [run(*x)]), inputs

    return Torch(make, *MODES[name])


def read_cell(folder: Path) -> Cell:
    """The cell that was written into a folder."""
    content = json.loads((folder / "cell.json").read_text())
    return Cell(content["suite"], content["kind"], content["dtype"], tuple(map(tuple, content["shape"])))


def compared(folder: Path, outputs: list[Any]) -> list[Any]:
    """The elements of the result that the reference has too."""
    places = np.load(folder / "places.npy")
    return [np.asarray(x).reshape(-1)[places] for x in outputs]


if __name__ == "__main__":
    serve(engine, compared)
