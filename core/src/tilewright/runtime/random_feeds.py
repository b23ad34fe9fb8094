"""Random inputs for a model, from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tilewright.artifact.manifest import TensorInfo
from tilewright.errors import InputError
from tilewright.ir import dtypes
from tilewright.runtime.native import Array


def random_feeds(
    inputs: Sequence[TensorInfo], seed: int = 0, symbols: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """An array for each input that is a tensor of numbers: floats standard normal, integers and booleans 0 or 1.

    Integers are that small because they may be indices into a table of unknown length.

    Args:
        inputs: what the program declares.
        seed: equal seeds give equal arrays.
        symbols: extent of each symbol.

    Raises:
        InputError: an extent has a name that is no symbol, or an array does not fit in memory.
    """
    known = symbols or {}
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for info in (x for x in inputs if x.is_plain):
        if unknown := [extent for extent in info.shape if isinstance(extent, str) and extent not in known]:
            raise InputError(
                f"Input {info.name!r} is {info}, and nothing says what {unknown[0]!r} is.",
                "Give an array with --input.",
            )
        shape = [extent if isinstance(extent, int) else known[extent] for extent in info.shape]
        normal = dtypes.is_float(info.dtype) or info.dtype in dtypes.NARROW_FLOATS
        try:
            plain = rng.standard_normal(shape) if normal else rng.integers(0, 2, shape)
            feeds[info.name] = np.asarray(plain).astype(dtypes.to_numpy(info.dtype))
        except (MemoryError, ValueError) as error:  # what NumPy says to more elements than it can count
            raise InputError(f"There is no memory for input {info.name!r}, which is {info}.") from error
    return feeds
