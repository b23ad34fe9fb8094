"""A built program in a folder: written by the process that built it, loaded by another.

Unlike an artifact it is for this moment and this machine: a folder per program with its library and a table, and beside
these folders the weights, of which programs that stand side by side share those that are equal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.config.binding import Settings
from tilewright.files import replacing
from tilewright.ir import dtypes
from tilewright.plugins.records import Backend
from tilewright.runtime.native import Array, BuildOutput, NativeProgram, Weight

_TABLE = "program.json"


def save(output: BuildOutput, folder: Path) -> None:
    """Writes what `load` needs.

    Args:
        folder: where the program was built. Its library stays where it is.
    """
    weights = [
        [w.name, w.dtype, list(w.shape), _saved(w, folder, number)] for number, w in enumerate(output.weights)
    ]
    table = {"library": str(output.library.absolute()), "data": output.data, "weights": weights}
    (folder / _TABLE).write_text(json.dumps(table), encoding="utf-8")


def load(folder: Path, settings: Settings, threads: int) -> NativeProgram:
    """The program of a folder that `save` filled, for the configured target.

    Raises:
        InputError: this machine cannot run it.
    """
    table = json.loads((folder / _TABLE).read_text(encoding="utf-8"))
    weights = {name: _mapped(folder / file, dtype, tuple(shape)) for name, dtype, shape, file in table["weights"]}
    return bound(Path(table["library"]), weights, table["data"], settings, threads)


def bound(
    library: Path, weights: Mapping[str, Array], data: Mapping[str, Any], settings: Settings, threads: int
) -> NativeProgram:
    """What the backend of the configured target makes of a library, its weights and its data."""
    registry = settings.registry
    backend = registry.get(Backend, settings.target.backend)
    loader = registry.code(backend, backend.loader)
    native: NativeProgram = loader(library, weights, data, target=str(settings.target), threads=threads)
    return native


def _saved(weight: Weight, folder: Path, number: int) -> str:
    """The file of a weight, relative to the folder; it may be there already, from another program."""
    file = f"../weight-{hashlib.sha256(weight.key.encode()).hexdigest()}" if weight.key else f"weight-{number}"
    if not (folder / file).exists():
        with replacing(folder / file) as stream:
            stream.write(np.ascontiguousarray(weight.load()).reshape(-1).view(np.uint8).data)
    return file


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> Array:
    if not path.stat().st_size:  # nothing can be mapped
        return np.empty(shape, dtypes.to_numpy(dtype))
    return np.memmap(path, np.uint8, "r").view(np.ndarray).view(dtypes.to_numpy(dtype)).reshape(shape)
