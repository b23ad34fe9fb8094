"""Engines in processes of their own, measured in turns, and whether their outputs agree with a reference."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = {"float32": 1e-4, "float16": 1e-2}
"""Of ‖a − b‖ / ‖b‖ of an output and its reference, by the dtype of the cell."""
_TURN, _LEAST = 0.05, 5  # seconds of a turn, rounds of one


class Worker:
    """The asking side of a process that `worker.serve` runs in.

    Args:
        module: what the process runs, `python -m MODULE ENGINE FOLDER` in the repository's root.
        threads: of the engine on the host.
    """

    def __init__(self, engine: str, folder: Path, module: str, threads: int) -> None:
        self.engine, self.error, self.samples, self.rounds = engine, "", list[float](), 1
        log = (folder / f"{engine}.log").open("w")
        command = [sys.executable, "-m", module, engine, str(folder)]
        count = {x: str(threads) for x in ("OMP_NUM_THREADS", "TILEWRIGHT_NUM_THREADS", "TVM_NUM_THREADS")}
        environment = {**os.environ, **count, "TORCHINDUCTOR_COMPILE_THREADS": "2"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def ask(self, **request: Any) -> Any:
        """The worker's answer, or None after an error, which is kept."""
        if self.error:
            return None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": f"ended with status {self._process.wait()}"}
        self.error = answer.get("error", "")
        return answer.get("ok")

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()


def measured(folder: Path, workers: Sequence[Worker], dtype: str, turns: int, rounds: int) -> dict[str, dict[str, Any]]:
    """All engines of the cell that was prepared in `folder`, in turns.

    Args:
        rounds: most runs of an engine in one turn.
    """
    compiled: dict[str, float] = {}

    def prepare(worker: Worker) -> None:
        seconds = worker.ask(do="prepare", folder=str(folder))
        if seconds is not None:
            compiled[worker.engine] = seconds
        worker.ask(do="warm")
        once = worker.ask(do="measure", rounds=3)
        if once:
            worker.rounds = min(max(int(_TURN / min(once)), _LEAST), rounds)

    with ThreadPoolExecutor(len(workers)) as pool:
        list(pool.map(prepare, workers))
    for _ in range(turns):
        for worker in workers:
            worker.samples += worker.ask(do="measure", rounds=worker.rounds) or []
    found = {worker.engine: summary(worker, folder, TOLERANCE[dtype]) for worker in workers}
    return {x: {**one, "compile_seconds": compiled[x]} if x in compiled else one for x, one in found.items()}


def norm_error(folder: Path, engine: str) -> float:
    """The largest ‖a − b‖ / ‖b‖ of an output against the reference; infinite for NaN or another shape."""
    found, wanted = np.load(folder / f"{engine}.npz"), np.load(folder / "reference.npz")
    worst = 0.0
    for key in wanted.files:
        a, b = found[key].astype(np.float64), wanted[key].astype(np.float64)
        if a.shape != b.shape or not np.isfinite(a).all():
            return math.inf
        worst = max(worst, float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0)))
    return worst


def summary(worker: Worker, folder: Path, tolerance: float) -> dict[str, Any]:
    """What was measured of an engine, and whether its outputs agree with the reference in `folder`; or its error."""
    if worker.error:
        return {"error": worker.error}
    error = norm_error(folder, worker.engine)
    low, _, high = statistics.quantiles(worker.samples, n=4)
    return {
        "median_us": statistics.median(worker.samples) * 1e6,
        "quartiles_us": [low * 1e6, high * 1e6],
        "norm_error": error,
        "agrees": error <= tolerance,
    }
