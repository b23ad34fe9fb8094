"""Latency of models on an NVIDIA GPU beside PyTorch: `python benchmarks/gpu.py --out FOLDER`. See README.md."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
OURS = "tilewright"


def prepare(cell: dict[str, str], folder: Path, target: str, programs: Path | None) -> dict[str, Any]:
    """Writes model, inputs, reference outputs (ONNX Runtime on the CPU, float32) and our program into `folder`."""
    import onnx
    import onnxruntime

    from tilewright.api import compile_artifact, settings_for
    from tilewright.runtime.random_feeds import random_feeds
    from tilewright.testing.models import BUILDERS, PUBLISHED
    from tilewright.testing.precision import narrowed, narrowed_feeds
    from tilewright.testing.seeded import light_model

    folder.mkdir(parents=True)
    name, dtype = cell["model"], cell["dtype"]
    if name in BUILDERS:
        case = BUILDERS[name](**PUBLISHED[name])
        wide, feeds = case.model, dict(case.feeds)
    else:
        wide, feeds = light_model(name), {}
    model = wide if dtype == "float32" else narrowed(wide, dtype)
    onnx.save(model, folder / "model.onnx")
    made = programs / f"{name}.{dtype}.tw" if programs else None
    start = time.perf_counter()
    if made is not None and made.exists():
        shutil.copy(made, folder / "program.tw")
    else:
        artifact, _ = compile_artifact(model, settings_for(target, None), cache=False)
        with artifact:
            artifact.copy_to(folder / "program.tw")
    seconds = time.perf_counter() - start
    if not feeds:
        from tilewright.artifact import Artifact

        with Artifact(folder / "program.tw") as opened:
            feeds = random_feeds(opened.manifest.examples(), 0)
    np.savez(folder / "feeds.npz", **narrowed_feeds(feeds, dtype))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(wide.SerializeToString(), options, providers=["CPUExecutionProvider"])
    np.savez(folder / "reference.npz", *session.run(None, feeds))
    return {"compile_seconds": seconds}


class Worker:
    """The asking side of worker.py.

    Args:
        program: what follows `python` on the command line, instead of worker.py.
        threads: of the engine on the host.
    """

    def __init__(
        self, engine: str, folder: Path, program: tuple[str, ...] = (str(HERE / "worker.py"),), threads: int = 2
    ) -> None:
        self.engine, self.error, self.samples, self.rounds = engine, "", list[float](), 1
        log = (folder / f"{engine}.log").open("w")
        command = [sys.executable, *program, engine, str(folder)]
        count = {x: str(threads) for x in ("OMP_NUM_THREADS", "TILEWRIGHT_NUM_THREADS", "TVM_NUM_THREADS")}
        environment = {**os.environ, **count, "TORCHINDUCTOR_COMPILE_THREADS": "2"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
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


TOLERANCE = {"float32": 1e-4, "float16": 1e-2}


def measure(cell: dict[str, str], folder: Path, workers: list[Worker], turns: int, rounds: int) -> dict[str, Any]:
    """All engines of a cell in turns."""
    for worker in workers:
        worker.ask(do="warm")
    for _ in range(turns):
        for worker in workers:
            worker.samples += worker.ask(do="measure", rounds=rounds) or []
    for worker in workers:
        worker.close()
    return {**cell, "engines": {w.engine: summary(w, folder, TOLERANCE[cell["dtype"]]) for w in workers}}


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


def table(results: list[dict[str, Any]], engines: list[str]) -> str:
    """Markdown: medians in µs, and our time over each peer's (above 1 we lose)."""
    peers = [x for x in engines if x != OURS]
    lines = ["| model | dtype | " + " | ".join(engines) + " | " + " | ".join(f"ours / {x}" for x in peers) + " |"]
    lines.append("|---" * (2 + len(engines) + len(peers)) + "|")
    ratios: dict[str, list[float]] = {x: [] for x in peers}
    for result in results:
        cells = [result["model"], result["dtype"]]
        measured = result["engines"]
        for engine in engines:
            one = measured.get(engine, {})
            mark = "" if one.get("agrees", True) else " (WRONG)"
            cells.append(f"{one['median_us']:.1f}{mark}" if "median_us" in one else "failed")
        for peer in peers:
            pair = [measured.get(x, {}) for x in (OURS, peer)]
            if all(x.get("agrees") for x in pair):
                ratio = pair[0]["median_us"] / pair[1]["median_us"]
                ratios[peer].append(ratio)
                cells.append(f"{ratio:.2f}")
            else:
                cells.append("–")
        lines.append("| " + " | ".join(cells) + " |")
    for peer, found in ratios.items():
        if found:
            mean = math.exp(statistics.fmean(map(math.log, found)))
            lines.append(
                f"\nGeometric mean of ours / {peer}: {mean:.2f} over {len(found)} cells; above 1 we are slower."
            )
    return "\n".join(lines) + "\n"


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    import importlib.metadata as metadata

    versions = {}
    for name in ("torch", "triton", "onnx", "onnxruntime", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return {"gpu": said, **versions}


def main() -> int:
    """Exit code 1 when one of our programs fails or disagrees."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/gpu"), help="folder for results.json and table.md")
    parser.add_argument("--cells", type=Path, default=HERE / "cells.toml")
    parser.add_argument("--only", nargs="*", help="models to measure; default all")
    parser.add_argument("--engines", nargs="*", default=[OURS, "torch-eager", "torch-compile"])
    parser.add_argument("--target", default="cuda:h200")
    parser.add_argument("--programs", type=Path, help="folder of programs compiled before, MODEL.DTYPE.tw")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=40, help="timed runs in a turn")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    cells = [
        c for c in tomllib.loads(options.cells.read_text())["cells"] if c["model"] in (options.only or [c["model"]])
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="tilewright-bench-") as temporary:
        folders = [Path(temporary, f"{c['model']}.{c['dtype']}") for c in cells]
        with ProcessPoolExecutor(max(1, options.jobs // 2)) as pool:
            arguments = (cells, folders, [options.target] * len(cells), [options.programs] * len(cells))
            prepared = list(pool.map(prepare, *arguments))
        sys.stderr.write("prepared\n")
        groups = [[Worker(engine, folder) for engine in options.engines] for folder in folders]
        with ThreadPoolExecutor(options.jobs) as threads:
            list(threads.map(lambda w: w.ask(do="prepare"), [w for group in groups for w in group]))
        sys.stderr.write("engines ready\n")
        for cell, folder, group, facts in zip(cells, folders, groups, prepared, strict=True):
            results.append({**measure(cell, folder, group, options.turns, options.rounds), **facts})
            text = table(results, options.engines)
            content = {"machine": machine(), "turns": options.turns, "rounds": options.rounds, "cells": results}
            (options.out / "results.json").write_text(json.dumps(content, indent=1))
            (options.out / "table.md").write_text(text)
    sys.stdout.write(text)
    wrong = [r for r in results if not r["engines"][OURS].get("agrees")]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
