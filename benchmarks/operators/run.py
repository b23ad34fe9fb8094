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
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu import Worker, measure
from benchmarks.operators.cells import FILE, Cell, arrays, cells, model, sample, selected, work
from benchmarks.operators.report import merged, report

ROOT = Path(__file__).resolve().parents[2]
ENGINES = {
    "cpu": ("tilewright-roller", "tilewright-divisors", "onnxruntime"),
    "cuda": ("tilewright-roller", "tilewright-divisors", "torch-eager", "torch-compile"),
}
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


def prepare(cell: Cell, folder: Path, engines: Sequence[str], target: str) -> dict[str, dict[str, Any]]:
    """Writes what workers read, and our programs; facts about these by engine."""
    given = arrays(cell)
    content = {"suite": cell.suite, "kind": cell.kind, "dtype": cell.dtype, "shape": cell.shape}
    (folder / "cell.json").write_text(json.dumps(content))
    places, wanted = sample(cell, given)
    np.save(folder / "places.npy", places)
    np.savez(folder / "reference.npz", wanted)
    made = model(cell, {name: given[name] for name in cell.weights()})
    ours = [x for x in engines if x.startswith("tilewright")]
    return {name: _compiled(made, folder / f"{name}.tw", name.partition("-")[2], target) for name in ours}


def _compiled(made: Any, path: Path, proposer: str, target: str) -> dict[str, Any]:
    from tilewright.api import compile_artifact, settings_for

    slots = {"propose": proposer} if proposer else {}
    settings = settings_for(None, {"target": target, "slots": slots})
    start = time.perf_counter()
    try:
        artifact, _ = compile_artifact(made, settings, cache=False)
    except Exception as error:  # noqa: BLE001 - one cell's failure is a result
        return {"error": f"{type(error).__name__}: {error}"[:2000]}
    seconds = time.perf_counter() - start
    with artifact:
        artifact.copy_to(path)
        (variant,) = artifact.manifest.variants
        decisions = [x for x in artifact.decisions(variant) if x["slot"] == "propose"]
    return {
        "compile_seconds": seconds,
        "predicted_us": sum(x["costs"][0] for x in decisions) * 1e6,
        "choices": [x["chosen"] for x in decisions],
    }


def run_cell(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """All engines of one cell, in turns."""
    with tempfile.TemporaryDirectory(prefix="tilewright-operators-") as temporary:
        folder = Path(temporary)
        facts = prepare(cell, folder, options.engines, options.target)
        failed = {name: x for name, x in facts.items() if "error" in x}
        running = [x for x in options.engines if x not in failed]
        program = ("-m", "benchmarks.operators.worker")
        workers = [Worker(x, folder, program, options.threads) for x in running]
        for worker in workers:
            worker.ask(do="prepare")
        found = measure({"dtype": cell.dtype}, folder, workers, options.turns, options.rounds)["engines"]
    flops, moved = work(cell)
    engines = {name: {**facts.get(name, {}), **found.get(name, {})} for name in options.engines}
    about = {"suite": cell.suite, "kind": cell.kind, "dtype": cell.dtype, "shape": dict(cell.shape)}
    return {"cell": cell.name, **about, "flops": flops, "bytes": moved, "engines": engines}


def run(options: argparse.Namespace) -> int:
    """Measures the cells that were asked for. 1 when one of our programs fails or disagrees."""
    i, n = map(int, options.shard.split("/"))
    chosen = selected(cells(options.cells), options.only, (i, n))
    if not chosen:
        raise SystemExit(f"no cell's name holds any of {options.only}, or shard {options.shard} is empty")
    about = environment(options.target, options.threads)
    made, where = options.commit or commit(), key(about)
    folder = options.out / f"{made}.{where}"
    folder.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for number, cell in enumerate(chosen, 1):
        path = folder / f"{cell.name}.json"
        known = json.loads(path.read_text())["engines"] if path.exists() else {}
        if options.resume and set(options.engines) <= set(known):
            sys.stderr.write(f"{number}/{len(chosen)} {cell.name}: known\n")
            continue
        start = time.perf_counter()
        found = {"commit": made, "environment": about, **run_cell(cell, options)}
        found["engines"] = {**known, **found["engines"]} if options.resume else found["engines"]
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1))
        partial.replace(path)
        ours = {k: v for k, v in found["engines"].items() if k.startswith("tilewright")}
        wrong += any(not x.get("agrees") for x in ours.values())
        said = ", ".join(
            f"{k} {x['median_us']:.1f} µs{'' if x.get('agrees') else ' WRONG'}" if "median_us" in x else f"{k} failed"
            for k, x in found["engines"].items()
        )
        sys.stderr.write(f"{number}/{len(chosen)} {cell.name}: {said} ({time.perf_counter() - start:.0f} s)\n")
    return 1 if wrong else 0


def merge(options: argparse.Namespace) -> int:
    """Writes results.json and table.md of all results in some folders."""
    results = merged(options.folders)
    if not results:
        raise SystemExit(f"no results in {', '.join(map(str, options.folders))}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=1))
    text = report(results)
    (options.out / "table.md").write_text(text)
    sys.stdout.write(text)
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operators.run", description=__doc__)
    commands = parser.add_subparsers(required=True)
    measured = commands.add_parser("run", help="measure cells")
    measured.add_argument("--cells", type=Path, default=FILE, help="table of cells")
    measured.add_argument("--only", nargs="*", default=[], help="words, one of which a cell's name must hold")
    measured.add_argument("--shard", default="1/1", metavar="I/N", help="every N-th of these cells, from the I-th on")
    measured.add_argument("--resume", action="store_true", help="leave out what is measured already")
    measured.add_argument("--target", default="cuda:h200")
    measured.add_argument("--engines", nargs="*", help="by default those for the target's kind")
    measured.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of engines on the host")
    measured.add_argument("--turns", type=int, default=3)
    measured.add_argument("--rounds", type=int, default=30, help="timed runs in a turn")
    measured.add_argument("--commit", help="what is measured, where there is no git")
    measured.add_argument("--out", type=Path, default=Path("reports/operators"))
    measured.set_defaults(command=run)
    joined = commands.add_parser("merge", help="make one table of several folders of results")
    joined.add_argument("folders", nargs="+", type=Path)
    joined.add_argument("--out", type=Path, default=Path("reports/operators"))
    joined.set_defaults(command=merge)
    options = parser.parse_args()
    if options.command is run:
        options.engines = options.engines or list(ENGINES[options.target.partition(":")[0]])
    return int(options.command(options))


if __name__ == "__main__":
    sys.exit(main())
