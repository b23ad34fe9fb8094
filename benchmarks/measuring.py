"""Engines in processes of their own, measured in turns, and whether their outputs agree with a reference."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Timer
from typing import Any

import numpy as np

from tilewright.bench.measure import REST

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
        self.compile_seconds: float | None = None
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

    def ask(self, patience: float | None = None, **request: Any) -> Any:
        """The worker's answer, or None after an error, which is kept.

        Args:
            patience: seconds after which the process is ended.
        """
        if self.error:
            return None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = Event()
        timer = Timer(patience, lambda: (late.set(), self._process.kill())) if patience else None
        if timer:
            timer.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if timer:
            timer.cancel()
        if line:
            answer = json.loads(line)
        else:
            status = self._process.wait()
            answer = {"error": f"not ready after {patience:g} s" if late.is_set() else f"ended with status {status}"}
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


def made_ready(waiting: Sequence[tuple[Worker, Path]], jobs: int, patience: float) -> None:
    """Workers prepare, each the cell in its folder, `jobs` of them side by side.

    Args:
        patience: seconds that each has.
    """

    def prepare(worker: Worker, folder: Path) -> None:
        worker.compile_seconds = worker.ask(patience, do="prepare", folder=str(folder))
        worker.ask(patience, do="warm")

    if waiting:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(prepare, *zip(*waiting, strict=True)))


def measured(
    folder: Path, workers: Sequence[Worker], dtype: str, *, turns: int, rounds: int, host: bool
) -> dict[str, dict[str, Any]]:
    """All engines of the cell that was prepared in `folder`, in turns. They are ready.

    Args:
        rounds: most runs of an engine in one turn.
        host: whether they run on the host.
    """
    for worker in workers:
        once = worker.ask(do="measure", rounds=3)
        worker.rounds = min(max(int(_TURN / min(once)), _LEAST), rounds) if once else 1
    for _ in range(turns):
        for worker in workers:
            time.sleep(REST if host else 0.0)
            worker.samples += worker.ask(do="measure", rounds=worker.rounds) or []
    return {worker.engine: summary(worker, folder, TOLERANCE[dtype]) for worker in workers}


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
    known = {} if worker.compile_seconds is None else {"compile_seconds": worker.compile_seconds}
    return {
        **known,
        "median_us": statistics.median(worker.samples) * 1e6,
        "quartiles_us": [low * 1e6, high * 1e6],
        "norm_error": error,
        "agrees": error <= tolerance,
    }
