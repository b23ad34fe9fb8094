"""What the engines of a cell need, made before any is measured: model, inputs, reference outputs, our programs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.models.cells import Cell
from benchmarks.models.graphs import case, in_dtype
from benchmarks.preparing import compiled, side_by_side
from benchmarks.results import OURS
from benchmarks.sessions import Facts

_SHARES = 3
"""Of the processors that each program is compiled with: large models take much longer than small ones."""


def configurations(files: Sequence[str]) -> dict[str, Path]:
    """Configuration files by the name of the engine that uses them; each is given as `NAME=FILE` or by its file."""
    found = {}
    for text in files:
        name, _, path = text.rpartition("=")
        found[f"{OURS}-{name or Path(path).stem}"] = Path(path)
    return found


def prepared(
    cells: Sequence[Cell],
    folders: Sequence[Path],
    engines: Sequence[str],
    configs: Mapping[str, Path],
    target: str,
    threads: int,
    jobs: int,
) -> list[Facts]:
    """Writes what workers read, and our programs, `jobs` side by side; for each cell facts about these by engine.

    Raises:
        SystemExit: an engine of ours has no configuration.
    """
    for name in engines:
        if name.startswith(OURS) and name not in {OURS, *configs}:
            raise SystemExit(f"engine {name} needs a configuration: --config {name.partition('-')[2]}=FILE")
    side_by_side(partial(prepare, target=target), cells, folders, jobs)
    ours = [x for x in engines if x.startswith(OURS)]
    asked = [(name, folder) for folder in folders for name in ours]
    one = partial(_program, configs=configs, target=target, threads=threads)
    made = iter(side_by_side(one, *zip(*asked, strict=True), jobs, _SHARES) if asked else [])
    return [{name: next(made) for name in ours} for _ in folders]


def prepare(cell: Cell, folder: Path, target: str) -> None:
    """Writes what workers read of a cell."""
    folder.mkdir(parents=True, exist_ok=True)
    given = case(cell.model, cell.batch, cell.small)
    (folder / "cell.json").write_text(json.dumps({**asdict(cell), "target": target}))
    np.savez(folder / "reference.npz", *reference(given.model, dict(given.feeds)))
    model, feeds = in_dtype(given, cell.dtype)
    np.savez(folder / "feeds.npz", **feeds)
    onnx.save(model, folder / "model.onnx")


def reference(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """Outputs of ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def _program(name: str, folder: Path, configs: Mapping[str, Path], target: str, threads: int) -> dict[str, Any]:
    """Writes the program of an engine of ours for the cell in a folder; facts about it."""
    from tilewright.config.loading import load_mapping

    model = onnx.load(folder / "model.onnx")
    config = load_mapping(configs[name]) if name in configs else {}
    found = compiled(model, folder / f"{name}.tw", config, target, threads)
    return {**found, "kernels": len(found["choices"])} if "choices" in found else found
