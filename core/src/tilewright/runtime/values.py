"""Values that need not be tensors of numbers: strings, sequences, optionals.

They have one form everywhere: an array, whose elements are `str` objects where it holds strings; a list of values for a
sequence; None for an optional that is empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.artifact.manifest import TensorInfo
from tilewright.errors import InputError


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


def prepare_value(info: TensorInfo, given: Any) -> Any:
    """What was given for an input that is no tensor of numbers, in its one form.

    Raises:
        InputError: it is something else than the input is declared to be.
    """
    if info.dtype == "string":
        array = np.asarray(given, None if isinstance(given, np.ndarray) else object)
        found = normal(array)
        if not all(isinstance(x, str) for x in found.reshape(-1)):
            raise InputError(
                f"Input {info.name!r} needs strings and was given {array.dtype}.",
                "Give an array of str, or of objects that are str.",
            )
        return found
    if info.form.startswith("sequence") and not isinstance(given, list | tuple):
        raise InputError(
            f"Input {info.name!r} is a {info.form} and was given {type(given).__name__}.", "Give a list of arrays."
        )
    return normal(given)
