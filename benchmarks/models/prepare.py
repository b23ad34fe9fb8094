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
    """`prepare` for many cells, `jobs` of them side by side.

    Raises:
        SystemExit: an engine of ours has no configuration.
    """
    for name in engines:
        if name.startswith(OURS) and name not in {OURS, *configs}:
            raise SystemExit(f"engine {name} needs a configuration: --config {name.partition('-')[2]}=FILE")
    one = partial(prepare, engines=engines, configs=configs, target=target, threads=threads)
    return side_by_side(one, cells, folders, jobs)


def prepare(
    cell: Cell, folder: Path, engines: Sequence[str], configs: Mapping[str, Path], target: str, threads: int
) -> Facts:
    """Writes what workers read, and our programs; facts about these by engine."""
    folder.mkdir(parents=True, exist_ok=True)
    given = case(cell.model, cell.batch, cell.small)
    (folder / "cell.json").write_text(json.dumps({**asdict(cell), "target": target}))
    np.savez(folder / "reference.npz", *reference(given.model, dict(given.feeds)))
    model, feeds = in_dtype(given, cell.dtype)
    np.savez(folder / "feeds.npz", **feeds)
    onnx.save(model, folder / "model.onnx")
    ours = [x for x in engines if x.startswith(OURS)]
    return {name: _program(model, folder / f"{name}.tw", configs.get(name), target, threads) for name in ours}


def reference(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """Outputs of ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def _program(model: onnx.ModelProto, path: Path, config: Path | None, target: str, threads: int) -> dict[str, Any]:
    from tilewright.config.loading import load_mapping

    found = compiled(model, path, load_mapping(config) if config else {}, target, threads)
    return {**found, "kernels": len(found["choices"])} if "choices" in found else found
