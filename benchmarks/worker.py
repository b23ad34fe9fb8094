"""One engine with one model in a process of its own: `worker.py ENGINE FOLDER`, commands as lines of JSON on stdin.

FOLDER holds model.onnx, feeds.npz and, for tilewright, program.tw; a request to prepare may name another, with which
the worker goes on. Every engine keeps inputs and outputs on the device and is timed by device events around each run,
the runs queued back to back.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_CYCLES = 60_000
"""Of the device's clock, more than queueing a run takes."""


class Tilewright:
    """Our program: the graph that its loader captures."""

    def __init__(self, folder: Path, feeds: dict[str, Any], program: str = "program.tw") -> None:
        import tilewright

        self._feeds, self._program = feeds, tilewright.load(folder / program)

    def warm(self) -> None:
        for _ in range(3):
            self._program.run(None, self._feeds)

    def outputs(self) -> list[Any]:
        self._kept = self._program.run(None, self._feeds)  # what is measured writes there again
        return self._kept

    def measure(self, rounds: int) -> list[float]:
        # Not part of the public interface: a run without transfers, of a program that is one native step.
        ((_, step),) = self._program._pipeline._steps
        (native,) = step._programs.values()
        return list(native.measure(rounds))


class Torch:
    """PyTorch under a CUDA graph, eager or compiled by Inductor; no TF32, cuDNN searches for its fastest kernels.

    Args:
        make: gives a function of tensors on the device that returns a sequence of tensors, and its inputs.
    """

    def __init__(self, make: Callable[[], tuple[Any, list[Any]]], compiled: bool, mode: str | None = None) -> None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        # From the first call on: PyTorch keeps the plan that it finds first, with or without a search.
        torch.backends.cudnn.benchmark = True
        torch.set_grad_enabled(False)
        self._torch = torch
        torch.compiler.reset()  # nothing of a function compiled before in this process
        torch.cuda.empty_cache()
        run, self._inputs = make()
        self._run = torch.compile(run, mode=mode, fullgraph=True) if compiled else run
        start = time.perf_counter()
        self._run(*self._inputs)
        torch.cuda.synchronize()
        # Nothing of it where nothing is compiled: the first run chooses kernels.
        self.compile_seconds = time.perf_counter() - start if compiled else None

    def warm(self) -> None:
        torch = self._torch
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                self._run(*self._inputs)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._results = self._run(*self._inputs)
        self._graph.replay()
        torch.cuda.synchronize()

    def outputs(self) -> list[Any]:
        self._graph.replay()
        self._torch.cuda.synchronize()
        return [x.cpu().numpy() for x in self._results]

    def measure(self, rounds: int) -> list[float]:
        torch = self._torch
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2 * rounds)]
        self._graph.replay()
        # The device waits until all is queued: short runs end sooner than Python asks for the next one.
        torch.cuda._sleep(rounds * _CYCLES)
        for first, last in zip(events[::2], events[1::2], strict=True):
            first.record()
            self._graph.replay()
            last.record()
        torch.cuda.synchronize()
        return [a.elapsed_time(b) * 1e-3 for a, b in zip(events[::2], events[1::2], strict=True)]


MODES: dict[str, tuple[bool, str | None]] = {
    "torch-eager": (False, None),
    "torch-compile": (True, None),
    "torch-max-autotune": (True, "max-autotune-no-cudagraphs"),
}
"""Engines of PyTorch on a GPU: whether Inductor compiles, and in which mode."""


def model_engine(name: str, folder: Path) -> Any:
    """An engine for the model and the feeds in a folder."""
    feeds = dict(np.load(folder / "feeds.npz"))
    if name == "tilewright":
        return Tilewright(folder, feeds)

    def make() -> tuple[Any, list[Any]]:
        import onnx
        import torch
        from onnx_torch import OnnxModule

        module = OnnxModule(onnx.load(folder / "model.onnx"), feeds, "cuda").eval()
        return module, [torch.from_numpy(feeds[n]).cuda() for n in module.inputs]

    return Torch(make, *MODES[name])


def serve(
    make: Callable[[str, Path], Any], kept: Callable[[Path, list[Any]], list[Any]] = lambda folder, outputs: outputs
) -> None:
    """Answers for the engine and the folder named by the command line, until stdin ends.

    Args:
        make: the engine for a folder.
        kept: what of its outputs is written for comparison.
    """
    name, folder = sys.argv[1], Path(sys.argv[2])
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print too
    engine: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        reply: Any = None
        try:
            if request["do"] == "prepare":
                engine = None  # what the last one holds is free before the next is made
                gc.collect()
                folder = Path(request.get("folder", folder))
                engine = make(name, folder)
                reply = getattr(engine, "compile_seconds", None)
            elif request["do"] == "warm":
                engine.warm()
                np.savez(folder / f"{name}.npz", *kept(folder, engine.outputs()))
            else:
                reply = engine.measure(request["rounds"])
            answer = {"ok": reply}
        except Exception as error:  # noqa: BLE001 - the asking side reports it
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(model_engine)
