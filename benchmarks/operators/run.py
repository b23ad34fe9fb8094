"""`python -m benchmarks.operators.run`: measures cells, one file of results each, and merges them into a table.

A result's file is named by commit, environment and cell, so that several short sessions on a device make one table.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata as metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from benchmarks.gpu import TOLERANCE, Worker, summary
from benchmarks.operators.cells import FILE, Cell, cells, selected, work
from benchmarks.operators.prepare import prepared
from benchmarks.operators.report import OURS, merged, report
from benchmarks.operators.tvm_engines import TRIALS

ROOT = Path(__file__).resolve().parents[2]
ENGINES = {
    "cpu": ("tilewright-roller", "tilewright-divisors", "onnxruntime"),
    "cuda": ("tilewright-roller", "tilewright-divisors", "torch-eager", "torch-compile"),
}
_TURN, _LEAST = 0.05, 5  # seconds of a turn, rounds of one
_PACKAGES = ("apache-tvm", "numpy", "onnx", "onnxruntime", "torch", "triton")


def commit() -> str:
    """What is measured: the commit of the working tree, marked where files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def environment(target: str, threads: int) -> dict[str, Any]:
    """On what it is measured."""
    found: dict[str, Any] = {"target": target, "threads": threads, "cpu": _cpu()}
    if target.startswith("cuda"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        found["gpu"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.machine())


def key(of: Any) -> str:
    """A short name for an environment."""
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:8]


def measured(cell: Cell, folder: Path, workers: Sequence[Worker], options: argparse.Namespace) -> dict[str, Any]:
    """All engines of one prepared cell, in turns."""
    compiled: dict[str, float] = {}

    def prepare(worker: Worker) -> None:
        seconds = worker.ask(do="prepare", folder=str(folder))
        if seconds is not None:
            compiled[worker.engine] = seconds
        worker.ask(do="warm")
        once = worker.ask(do="measure", rounds=3)
        if once:
            worker.rounds = min(max(int(_TURN / min(once)), _LEAST), options.rounds)

    with ThreadPoolExecutor(len(workers)) as pool:
        list(pool.map(prepare, workers))
    for _ in range(options.turns):
        for worker in workers:
            worker.samples += worker.ask(do="measure", rounds=worker.rounds) or []
    found = {worker.engine: summary(worker, folder, TOLERANCE[cell.dtype]) for worker in workers}
    return {x: {**one, "compile_seconds": compiled[x]} if x in compiled else one for x, one in found.items()}


def run(options: argparse.Namespace) -> int:
    """Measures the cells that were asked for. 1 when one of our programs fails or disagrees."""
    i, n = map(int, options.shard.split("/"))
    chosen = selected(cells(options.cells), options.only, (i, n))
    if not chosen:
        raise SystemExit(f"no cell's name holds any of {options.only}, or shard {options.shard} is empty")
    about = environment(options.target, options.threads)
    made, where = options.commit or commit(), key(about)
    out = options.out / f"{made}.{where}"
    out.mkdir(parents=True, exist_ok=True)
    known = {c.name: json.loads(p.read_text())["engines"] for c in chosen if (p := out / f"{c.name}.json").exists()}
    if options.resume:
        chosen = [c for c in chosen if not set(options.engines) <= set(known.get(c.name, {}))]
    if not chosen:
        return 0
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="tilewright-operators-") as temporary, ExitStack() as stack:
        folders = [Path(temporary, c.name) for c in chosen]
        start = time.perf_counter()
        given = (options.engines, options.target, options.threads, options.jobs, options.trials)
        facts = prepared(chosen, folders, *given)
        sys.stderr.write(f"{len(chosen)} cells prepared ({time.perf_counter() - start:.0f} s)\n")
        workers = {x: stack.enter_context(closing(_worker(x, Path(temporary), options))) for x in options.engines}
        for number, (cell, folder, ours) in enumerate(zip(chosen, folders, facts, strict=True), 1):
            start = time.perf_counter()
            failed = [x for x, found in ours.items() if "error" in found]
            for name in workers:
                if workers[name].ended:
                    workers[name] = stack.enter_context(closing(_worker(name, Path(temporary), options)))
            running = [w for name, w in workers.items() if name not in failed]
            for worker in running:
                worker.error, worker.samples = "", []
            found = measured(cell, folder, running, options) if running else {}
            engines = {x: {**ours.get(x, {}), **found.get(x, {})} for x in options.engines}
            wrong += any(not x.get("agrees") for name, x in engines.items() if name.startswith(OURS))
            before = known.get(cell.name, {}) if options.resume else {}
            _write(out / f"{cell.name}.json", made, about, cell, {**before, **engines})
            shutil.rmtree(folder)
            said = ", ".join(f"{name} {_said(x)}" for name, x in engines.items())
            sys.stderr.write(f"{number}/{len(chosen)} {cell.name}: {said} ({time.perf_counter() - start:.1f} s)\n")
    return 1 if wrong else 0


def _worker(engine: str, folder: Path, options: argparse.Namespace) -> Worker:
    return Worker(engine, folder, ("-m", "benchmarks.operators.worker"), options.threads)


def _said(one: dict[str, Any]) -> str:
    if "median_us" not in one:
        return f"failed: {one.get('error', '').splitlines()[0][:200]}" if one.get("error") else "failed"
    return f"{one['median_us']:.1f} µs{'' if one.get('agrees') else ' WRONG'}"


def _write(path: Path, commit: str, about: dict[str, Any], cell: Cell, engines: dict[str, Any]) -> None:
    flops, moved = work(cell)
    what = {"cell": cell.name, "suite": cell.suite, "kind": cell.kind, "dtype": cell.dtype, "shape": dict(cell.shape)}
    content = {"commit": commit, "environment": about, **what, "flops": flops, "bytes": moved, "engines": engines}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(path)


def merge(options: argparse.Namespace) -> int:
    """Writes results.json, table.md, predictions.svg and ratios.svg of all results in some folders."""
    results = merged(options.folders)
    if not results:
        raise SystemExit(f"no results in {', '.join(map(str, options.folders))}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=1))
    text = report(results, options.bandwidth)
    (options.out / "table.md").write_text(text)
    sys.stdout.write(text)
    try:
        from benchmarks.operators import plots
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"table.md is written, but plots need {error.name}, which is not installed. "
            "Install the extra: pip install 'tilewright[benchmarks]'"
        ) from error
    plots.predictions(results, options.out / "predictions.svg")
    plots.ratios(results, options.out / "ratios.svg")
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operators.run", description=__doc__)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="measure cells")
    runs.add_argument("--cells", type=Path, default=FILE, help="table of cells")
    runs.add_argument("--only", nargs="*", default=[], help="words, one of which a cell's name must hold")
    runs.add_argument("--shard", default="1/1", metavar="I/N", help="every N-th of these cells, from the I-th on")
    runs.add_argument("--resume", action="store_true", help="leave out what is measured already")
    runs.add_argument("--target", default="cuda:h200")
    runs.add_argument("--engines", nargs="*", help="by default those for the target's kind")
    runs.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of engines on the host")
    runs.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="cells prepared side by side")
    runs.add_argument("--turns", type=int, default=3)
    runs.add_argument("--rounds", type=int, default=30, help="most timed runs in a turn")
    runs.add_argument("--trials", type=int, default=TRIALS, help="schedules that tvm-metaschedule measures")
    runs.add_argument("--commit", help="what is measured, where there is no git")
    runs.add_argument("--out", type=Path, default=Path("reports/operators"))
    runs.set_defaults(command=run)
    joined = commands.add_parser("merge", help="make one table of several folders of results")
    joined.add_argument("folders", nargs="+", type=Path)
    joined.add_argument("--out", type=Path, default=Path("reports/operators"))
    joined.add_argument("--bandwidth", type=float, metavar="GB/s", help="of copies: bytes read and written")
    joined.set_defaults(command=merge)
    options = parser.parse_args()
    if options.command is run:
        options.engines = options.engines or list(ENGINES[options.target.partition(":")[0]])
    return int(options.command(options))


if __name__ == "__main__":
    sys.exit(main())
