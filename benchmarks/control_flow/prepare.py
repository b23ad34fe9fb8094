"""What the engines of a cell need, made before any is measured: inputs, reference outputs, our programs, decisions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.control_flow.cells import Cell
from benchmarks.control_flow.flow import Given
from benchmarks.control_flow.trace import Taken, traced
from benchmarks.models.prepare import reference
from benchmarks.preparing import compiled, side_by_side
from benchmarks.results import OURS
from benchmarks.sessions import Facts
from tilewright.config.loading import load_mapping
from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.ir.module import Module

UNROLLED = f"{OURS}-unrolled"
"""The straight program of what a run does: the bound on what control flow costs."""


def prepared(
    cells: Sequence[Cell],
    folders: Sequence[Path],
    engines: Sequence[str],
    configs: Mapping[str, Path],
    target: str,
    threads: int,
    jobs: int,
) -> list[Facts]:
    """`prepare` for many cells, `jobs` of them side by side.

    Raises:
        SystemExit: an engine of ours has no configuration.
    """
    for name in engines:
        if name.startswith(OURS) and name not in {OURS, UNROLLED, *configs}:
            raise SystemExit(f"engine {name} needs a configuration: --config {name.partition('-')[2]}=FILE")
    one = partial(prepare, engines=engines, configs=configs, target=target, threads=threads)
    return side_by_side(one, cells, folders, jobs)


def prepare(
    cell: Cell, folder: Path, engines: Sequence[str], configs: Mapping[str, Path], target: str, threads: int
) -> Facts:
    """Writes what workers read, and our programs; facts about these by engine."""
    folder.mkdir(parents=True, exist_ok=True)
    given = cell.given()
    (folder / "cell.json").write_text(json.dumps({**asdict(cell), "target": target}))
    np.savez(folder / "feeds.npz", **given.feeds)
    np.savez(folder / "reference.npz", *outputs(given))
    if not isinstance(given.model, Module):
        (folder / "model.onnx").write_bytes(given.model.SerializeToString())
    straight, taken = run_of(given)
    found: Facts = {}
    for name in engines:
        if name.startswith(OURS):
            model = straight if name == UNROLLED else given.model
            config = configs.get(name)
            made = compiled(model, folder / f"{name}.tw", load_mapping(config) if config else {}, target, threads)
            found[name] = {**made, "taken": str(taken)}
    return found


def run_of(given: Given) -> tuple[Module, Taken]:
    """The model without control flow for the decisions on its inputs, and how many these are."""
    module = given.model if isinstance(given.model, Module) else load(given.model)
    return traced(module, [given.feeds[name] for name in module.input_names])


def outputs(given: Given) -> list[Any]:
    """Of ONNX Runtime on the CPU, or of our interpreter where ONNX cannot say the model."""
    if isinstance(given.model, Module):
        return list(interpret(given.model, dict(given.feeds)))
    return reference(given.model, dict(given.feeds))
