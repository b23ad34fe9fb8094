"""Lists of arrays in files: what workers exchange, and what users give and get."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tilewright.artifact.archive import Member, Sink
from tilewright.artifact.weights import map_weights, plan_weights
from tilewright.files import replacing
from tilewright.ir import dtypes
from tilewright.runtime.native import Array, Weight


def save_arrays(path: Path, arrays: Sequence[Array]) -> None:
    """Writes `arrays` to a safetensors file, named by position; every dtype of the IR survives."""
    weights = [
        Weight(str(number), dtypes.from_numpy(array.dtype), array.shape, lambda array=array: array)  # type: ignore[misc]
        for number, array in enumerate(arrays)
    ]
    _, fill = plan_weights(weights)
    with replacing(path) as stream:
        fill(Sink(stream))


def load_arrays(path: Path) -> list[Array]:
    """The arrays of a file that `save_arrays` wrote, copied into memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        views = map_weights(path, mapped, Member(0, len(mapped)))
        arrays = [np.array(views[str(number)]) for number in range(len(views))]
        del views
    return arrays
