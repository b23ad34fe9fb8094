"""What the engines of a cell need, made before any is measured: programs, and a sample of the right result."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.operators import tvm_engines
from benchmarks.operators.cells import Cell, arrays, model, sample
from benchmarks.preparing import compiled, side_by_side
from benchmarks.results import OURS
from benchmarks.sessions import Facts

_MEASURING = 4


def prepared(
    chosen: Sequence[Cell],
    folders: Sequence[Path],
    engines: Sequence[str],
    target: str,
    threads: int,
    jobs: int,
    trials: int = tvm_engines.TRIALS,
) -> list[Facts]:
    """`prepare` for many cells, `jobs` of them side by side, each in a process that prepares several.

    What measures its choices builds them side by side itself, so then there are fewer, with a share of the processors;
    on the host, which it would not have for itself, one. TVM's engines follow one after another, as tuning has the
    device and all processors to itself.
    """
    one = partial(prepare, engines=engines, target=target, threads=threads)
    if any(slots(x).get("options") for x in engines if x.startswith(OURS)):
        jobs = 1 if target.startswith("cpu") else min(jobs, _MEASURING)
    facts = side_by_side(one, chosen, folders, jobs)
    peers = [x for x in engines if x in tvm_engines.NAMES]
    made = _in_turns(chosen, folders, peers, target, threads, trials)
    return [{**a, **b} for a, b in zip(facts, made, strict=True)]


def _in_turns(
    chosen: Sequence[Cell], folders: Sequence[Path], engines: Sequence[str], target: str, threads: int, trials: int
) -> list[Facts]:
    """TVM's libraries of every cell, all made in one process; another one takes over where TVM ends it."""
    spawn = multiprocessing.get_context("spawn")
    found: list[Facts] = [{} for _ in chosen]
    todo = [(i, x) for i in range(len(chosen)) for x in engines]
    while todo:
        with ProcessPoolExecutor(1, spawn, tvm_engines.environment, (threads,)) as pool:
            while todo:
                i, name = todo.pop(0)
                path = folders[i] / f"{name}.so"
                try:
                    job = pool.submit(tvm_engines.made, chosen[i], name, path, target, threads, trials)
                    found[i][name] = job.result()
                except BrokenProcessPool:
                    found[i][name] = {"error": "TVM ended the process that made this engine's library"}
                    break
                sys.stderr.write(f"{chosen[i].name}: {name} made ({_said(found[i][name])})\n")
    return found


def _said(facts: dict[str, Any]) -> str:
    return facts["error"].splitlines()[0][:200] if "error" in facts else f"{facts['compile_seconds']:.0f} s"


def prepare(cell: Cell, folder: Path, engines: Sequence[str], target: str, threads: int) -> Facts:
    """Writes what workers read, and our programs; facts about these by engine."""
    folder.mkdir(parents=True, exist_ok=True)
    given = arrays(cell)
    content = {"suite": cell.suite, "kind": cell.kind, "dtype": cell.dtype, "shape": cell.shape, "target": target}
    (folder / "cell.json").write_text(json.dumps(content))
    places, wanted = sample(cell, given)
    np.save(folder / "places.npy", places)
    np.savez(folder / "reference.npz", wanted)
    made = model(cell, {name: given[name] for name in cell.weights()})
    del given
    ours = [x for x in engines if x.startswith(OURS)]
    return {name: compiled(made, folder / f"{name}.tw", slots(name), target, threads) for name in ours}


def slots(engine: str) -> dict[str, Any]:
    """The configuration of an engine of ours: `tilewright`, or `tilewright-` and a proposer.

    A number after the proposer's name is how many choices it measures: `tilewright-roller10`.
    """
    name = engine.partition("-")[2]
    proposer = name.rstrip("0123456789")
    config: dict[str, Any] = {"slots": {"propose": proposer} if proposer else {}}
    if name != proposer:
        config["options"] = {proposer: {"measure": int(name[len(proposer) :])}}
    return config
