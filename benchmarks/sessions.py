"""Cells that are measured in short sessions: one file of results each, named by commit, environment and cell."""

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
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol, TypeVar

from benchmarks.measuring import ROOT, Worker, made_ready, measured
from benchmarks.results import OURS
from tilewright.workers import turn

_PACKAGES = ("apache-tvm", "numpy", "onnx", "onnxruntime", "torch", "triton")
Facts = dict[str, dict[str, Any]]
"""What was found while preparing a cell, by engine; an engine with an `error` is not measured."""


class AnyCell(Protocol):
    """What every cell has."""

    @property
    def name(self) -> str:
        """Unique, and fit for a file's name."""

    @property
    def dtype(self) -> str:
        """By which results are judged."""


C = TypeVar("C", bound=AnyCell)


def selected(all_cells: Sequence[C], only: Sequence[str], shard: tuple[int, int]) -> list[C]:
    """The cells whose names hold one of the words (all, when there is none), and of these every n-th from i on."""
    kept = [c for c in all_cells if not only or any(word in c.name for word in only)]
    i, n = shard
    return kept[i - 1 :: n]


def chosen(all_cells: Sequence[C], options: argparse.Namespace) -> list[C]:
    """The cells that the command line selects; ends the program when there is none."""
    i, n = map(int, options.shard.split("/"))
    found = selected(all_cells, options.only, (i, n))
    if not found:
        raise SystemExit(f"no cell's name holds any of {options.only}, or shard {options.shard} is empty")
    return found


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


def run(
    cells: Sequence[C],
    options: argparse.Namespace,
    prepared: Callable[[Sequence[C], Sequence[Path]], list[Facts]],
    described: Callable[[C], dict[str, Any]],
    module: str,
) -> int:
    """Measures cells, which are all prepared first. 1 when one of our programs fails or disagrees.

    Args:
        options: what `add_arguments` reads.
        prepared: writes into a folder for each cell what engines read, and `reference.npz`.
        described: what a result says of its cell, beside its name.
        module: what an engine's process runs.
    """
    about = environment(options.target, options.threads)
    made, where, kind = options.commit or commit(), key(about), options.target.partition(":")[0]
    out = options.out / f"{made}.{where}"
    out.mkdir(parents=True, exist_ok=True)
    known = {c.name: json.loads(p.read_text())["engines"] for c in cells if (p := out / f"{c.name}.json").exists()}
    if options.resume:
        there = [c for c in cells if set(options.engines) <= set(known.get(c.name, {}))]
        sys.stderr.writelines(f"{c.name}: known\n" for c in there)
        cells = [c for c in cells if c not in there]
    if not cells:
        return 0
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="tilewright-benchmark-") as temporary, ExitStack() as stack:
        folders = [Path(temporary, c.name) for c in cells]
        start = time.perf_counter()
        facts = prepared(cells, folders)
        sys.stderr.write(f"{len(cells)} cells prepared ({time.perf_counter() - start:.0f} s)\n")

        def started(engine: str) -> Worker:
            return stack.enter_context(closing(Worker(engine, Path(temporary), module, options.threads)))

        places = [{x: started(x) for x in options.engines} for _ in range(min(options.together, len(cells)))]
        todo = list(zip(cells, folders, facts, strict=True))
        for first in range(0, len(todo), len(places)):
            batch = todo[first : first + len(places)]
            for place in places:
                place |= {x: started(x) for x, worker in place.items() if worker.ended}
            running = _ready(batch, places, options)
            for number, ((cell, folder, ours), workers) in enumerate(zip(batch, running, strict=True), first + 1):
                start = time.perf_counter()
                with turn(kind, options.patience):
                    how = {"turns": options.turns, "rounds": options.rounds, "host": kind == "cpu"}
                    found = measured(folder, workers, cell.dtype, **how) if workers else {}
                engines = {x: {**ours.get(x, {}), **found.get(x, {})} for x in options.engines}
                wrong += any(not x.get("agrees") for name, x in engines.items() if name.startswith(OURS))
                before = known.get(cell.name, {}) if options.resume else {}
                content = {"commit": made, "environment": about, "cell": cell.name, **described(cell)}
                _write(out / f"{cell.name}.json", {**content, "engines": {**before, **engines}})
                shutil.rmtree(folder)
                said = ", ".join(f"{name} {_said(x)}" for name, x in engines.items())
                sys.stderr.write(f"{number}/{len(cells)} {cell.name}: {said} ({time.perf_counter() - start:.1f} s)\n")
    return 1 if wrong else 0


def _ready(
    batch: Sequence[tuple[C, Path, Facts]], places: Sequence[dict[str, Worker]], options: argparse.Namespace
) -> list[list[Worker]]:
    """For each cell of a batch the workers that run it; all of them have prepared it."""
    start = time.perf_counter()
    running = [
        [worker for name, worker in place.items() if "error" not in ours.get(name, {})]
        for (_, _, ours), place in zip(batch, places, strict=False)
    ]
    waiting = [(w, folder) for (_, folder, _), workers in zip(batch, running, strict=True) for w in workers]
    for worker, _ in waiting:
        worker.error, worker.samples, worker.compile_seconds = "", [], None
    made_ready(waiting, max(options.jobs, len(options.engines)), options.patience)
    sys.stderr.write(f"engines of {len(batch)} cells ready ({time.perf_counter() - start:.0f} s)\n")
    return running


def _said(one: dict[str, Any]) -> str:
    if "median_us" not in one:
        return f"failed: {one.get('error', '').splitlines()[0][:200]}" if one.get("error") else "failed"
    return f"{one['median_us']:.1f} µs{'' if one.get('agrees') else ' WRONG'}"


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(path)


def add_selection(parser: argparse.ArgumentParser, cells: Path) -> None:
    """The arguments that say which cells, of a table of them, and for which target."""
    parser.add_argument("--cells", type=Path, default=cells, help="table of cells")
    parser.add_argument("--only", nargs="*", default=[], help="words, one of which a cell's name must hold")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="every N-th of these cells, from the I-th on")
    parser.add_argument("--resume", action="store_true", help="leave out what is there already")
    parser.add_argument("--target", default="cuda:h200")


def add_arguments(parser: argparse.ArgumentParser, out: Path) -> None:
    """The arguments of `run`, beside those of `add_selection`."""
    processors = len(os.sched_getaffinity(0))
    parser.add_argument("--engines", nargs="*", help="by default those for the target's kind")
    parser.add_argument("--threads", type=int, default=processors, help="of engines on the host")
    parser.add_argument("--jobs", type=int, default=processors, help="cells prepared side by side")
    parser.add_argument("--together", type=int, default=1, help="cells whose engines get ready side by side")
    parser.add_argument("--patience", type=float, default=1800, help="seconds an engine has to get ready for a cell")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=30, help="most timed runs in a turn")
    parser.add_argument("--commit", help="what is measured, where there is no git")
    parser.add_argument("--out", type=Path, default=out)
