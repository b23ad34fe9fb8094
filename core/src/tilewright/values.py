"""Values that need not be tensors of numbers: strings, sequences, optionals.

They have one form everywhere: an array, whose elements are `str` objects where it holds strings; a list of values for a
sequence; None for an optional that is empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def normal(found: Any) -> Any:
    """A value in its one form; arrays are contiguous."""
    if found is None:
        return None
    if isinstance(found, list | tuple):
        return [normal(x) for x in found]
    array = np.asarray(found)
    if array.dtype.kind in "UT":
        return array.astype(object)
    return array if array.flags.c_contiguous else array.copy(order="C")
