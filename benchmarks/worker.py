"""One engine with one model in a process of its own: `worker.py ENGINE FOLDER`, commands as lines of JSON on stdin.

FOLDER holds model.onnx, feeds.npz and, for tilewright, program.tw. Every engine keeps inputs and outputs on the device
and is timed by device events around each run, the runs queued back to back.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


class Tilewright:
    """Our program: the graph that its loader captures."""

    def __init__(self, folder: Path, feeds: dict[str, Any]) -> None:
        import tilewright

        self._feeds, self._program = feeds, tilewright.load(folder / "program.tw")

    def warm(self) -> None:
        for _ in range(3):
            self._program.run(None, self._feeds)

    def outputs(self) -> list[Any]:
        return self._program.run(None, self._feeds)

    def measure(self, rounds: int) -> list[float]:
        # Not part of the public interface yet: a run without transfers.
        return list(self._program._native.measure(rounds))


class Torch:
    """PyTorch under a CUDA graph, eager or compiled by Inductor; no TF32, cuDNN searches for its fastest kernels."""

    def __init__(self, folder: Path, feeds: dict[str, Any], compiled: bool, mode: str | None = None) -> None:
        import onnx
        import torch
        from onnx_torch import OnnxModule

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        # From the first call on: PyTorch keeps the plan that it finds first, with or without a search.
        torch.backends.cudnn.benchmark = True
        torch.set_grad_enabled(False)
        self._torch = torch
        module = OnnxModule(onnx.load(folder / "model.onnx"), feeds, "cuda").eval()
        self._inputs = [torch.from_numpy(feeds[n]).cuda() for n in module.inputs]
        self._run = torch.compile(module, mode=mode, fullgraph=True) if compiled else module
        self._run(*self._inputs)
        torch.cuda.synchronize()

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
        for first, last in zip(events[::2], events[1::2], strict=True):
            first.record()
            self._graph.replay()
            last.record()
        torch.cuda.synchronize()
        return [a.elapsed_time(b) * 1e-3 for a, b in zip(events[::2], events[1::2], strict=True)]


ENGINES: dict[str, Any] = {
    "tilewright": Tilewright,
    "torch-eager": lambda folder, feeds: Torch(folder, feeds, False),
    "torch-compile": lambda folder, feeds: Torch(folder, feeds, True),
    "torch-max-autotune": lambda folder, feeds: Torch(folder, feeds, True, "max-autotune-no-cudagraphs"),
}


def main() -> None:
    """Answers until stdin ends."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    feeds = dict(np.load(folder / "feeds.npz"))
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print too
    engine: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        reply: Any = None
        try:
            if request["do"] == "prepare":
                engine = ENGINES[name](folder, feeds)
            elif request["do"] == "warm":
                engine.warm()
                np.savez(folder / f"{name}.npz", *engine.outputs())
            else:
                reply = engine.measure(request["rounds"])
            answer = {"ok": reply}
        except Exception as error:  # noqa: BLE001 - the asking side reports it
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
