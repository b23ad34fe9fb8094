"""What a process does that runs one engine: answer commands, lines of JSON on stdin, for one cell after the other.

A command to prepare names the cell's folder. Every engine keeps inputs and outputs on the device and is timed by device
events around each run, the runs queued back to back; on the host, by the clock.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.workers import turn

_PATIENCE = 3600.0
"""Seconds to wait for others that choose kernels by measuring."""
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
        return list(self._program.run(None, self._feeds))

    def measure(self, rounds: int) -> list[float]:
        return list(self._program.measure(self._feeds, rounds))


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
        self._waited = 0.0
        self._run = torch.compile(run, backend=self._inductor(mode), fullgraph=True) if compiled else run
        start = time.perf_counter()
        if compiled:
            self._run(*self._inputs)
        else:
            self._alone(self._run)(*self._inputs)
        # Nothing of it where nothing is compiled: the first run chooses kernels.
        self.compile_seconds = time.perf_counter() - start - self._waited if compiled else None

    def _alone(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which has the device for itself when it runs for the first time: it chooses kernels then."""
        chosen = False

        def call(*args: Any) -> Any:
            nonlocal chosen
            if chosen:
                return run(*args)
            chosen, start = True, time.perf_counter()
            with turn("cuda", _PATIENCE):
                self._waited += time.perf_counter() - start
                found = run(*args)
                self._torch.cuda.synchronize()
            return found

        return call

    def _inductor(self, mode: str | None) -> Callable[..., Any]:
        """Inductor as a backend of `torch.compile`; only the first run of what it gives needs the device for itself."""
        from torch._inductor import list_mode_options
        from torch._inductor.compile_fx import compile_fx

        def compile(graph: Any, inputs: Any) -> Callable[..., Any]:
            if mode is None:
                return self._alone(compile_fx(graph, inputs))
            with turn("cuda", _PATIENCE):  # it measures while it compiles
                made = compile_fx(graph, inputs, config_patches=list_mode_options(mode))
            return self._alone(made)

        return compile

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


class TorchLaunched(Torch):
    """PyTorch without a CUDA graph: Python asks for each kernel, and its time counts where the device waits for it."""

    def warm(self) -> None:
        for _ in range(3):
            self._results = self._run(*self._inputs)
        self._torch.cuda.synchronize()

    def outputs(self) -> list[Any]:
        return [x.cpu().numpy() for x in self._results]

    def measure(self, rounds: int) -> list[float]:
        torch = self._torch
        events = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
        self._run(*self._inputs)
        events[0].record()
        for event in events[1:]:
            self._run(*self._inputs)
            event.record()
        torch.cuda.synchronize()
        return [a.elapsed_time(b) * 1e-3 for a, b in itertools.pairwise(events)]


class Host:
    """A function of nothing that runs on the host and returns the result or a list of them, timed by the clock."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self._run = run

    def warm(self) -> None:
        for _ in range(3):
            self._run()

    def outputs(self) -> list[Any]:
        found = self._run()
        return [np.asarray(x) for x in (found if isinstance(found, list) else [found])]

    def measure(self, rounds: int) -> list[float]:
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            self._run()
            seconds.append(time.perf_counter() - start)
        return seconds


MODES: dict[str, tuple[bool, str | None]] = {
    "torch-eager": (False, None),
    "torch-compile": (True, None),
    "torch-max-autotune": (True, "max-autotune-no-cudagraphs"),
}
"""Engines of PyTorch on a GPU: whether Inductor compiles, and in which mode."""


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
