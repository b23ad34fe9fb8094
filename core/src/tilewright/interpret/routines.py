"""NumPy meanings of routines, by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.errors import InternalError
from tilewright.interpret.evaluate import evaluate
from tilewright.ir import dtypes
from tilewright.ir.ops import Routine

Array = npt.NDArray[Any]
Meaning = Callable[..., Sequence[Array]]

MEANINGS: dict[str, Meaning] = {}
"""Function of (attributes, inputs…) by kind of routine."""


def meaning(kind: str) -> Callable[[Meaning], Meaning]:
    """Registers a function under a kind."""

    def register(function: Meaning) -> Meaning:
        MEANINGS[kind] = function
        return function

    return register


def run(routine: Routine, inputs: Sequence[Array], symbols: Mapping[str, int]) -> list[Array]:
    """The outputs of a routine. Raises InternalError for an unknown kind or a result of the wrong type."""
    function = MEANINGS.get(routine.kind)
    if function is None:
        raise InternalError(f"The routine {routine.name} is of the kind {routine.kind!r}, which has no meaning.")
    results = []
    for value, made in zip(routine.outputs, function(dict(routine.attributes), *inputs), strict=True):
        wanted = tuple(int(evaluate(x, symbols)) for x in value.shape)
        if made.shape != wanted:
            raise InternalError(f"The routine {routine.name} gave shape {made.shape}, not {wanted}.")
        results.append(np.asarray(made))
    return results


@meaning("topk")
def _top_k(attributes: dict[str, Any], x: Array) -> Sequence[Array]:
    """The `count` extreme elements of each row of the last dimension, sorted, and their positions as int64.

    Of equal elements the one with the lower position comes first; NaN is greater than every number.
    """
    # NumPy sorts NaN last in its own types, among which bfloat16 is not.
    keys = x.astype(np.float32) if dtypes.from_numpy(x.dtype) == "bfloat16" else x
    if attributes["largest"]:
        # Ascending order of the reversed rank keeps the first of equal elements first.
        order = np.argsort(keys[..., ::-1], axis=-1, kind="stable")[..., ::-1]
        order = x.shape[-1] - 1 - order
    else:
        order = np.argsort(keys, axis=-1, kind="stable")
    chosen = order[..., : attributes["count"]]
    return np.take_along_axis(x, chosen, -1), chosen.astype(np.int64)
