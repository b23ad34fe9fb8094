"""What is given for inputs that are no tensors of numbers. `tilewright.values` says which form such values have."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.artifact.manifest import TensorInfo
from tilewright.errors import InputError
from tilewright.values import normal


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
