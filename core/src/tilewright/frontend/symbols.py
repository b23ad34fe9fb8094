"""Named dimensions that keep a range: which ones the caller asks for, and the symbols that stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from tilewright.errors import InputError, did_you_mean
from tilewright.frontend.names import Names
from tilewright.frontend.shapes import Shape
from tilewright.ir.module import Symbol

LARGEST = (1 << 31) - 1
"""The largest size that a range may have: indices are 32 bits wide where that is enough."""

_TAKEN = ("lane", "row", "col", "unit", "task", "tid")
"""Variables that generated code has beside the symbols."""


def asked_range(name: str, given: Any, inputs: Sequence[onnx.ValueInfoProto]) -> range | None:
    """The range that is asked for a named dimension; None when something else is.

    Args:
        given: `range(1, 513)`, or the smallest and the largest size as a tuple, `(1, 512)`.

    Raises:
        InputError: the range has no numbers, negative ones or gaps, or `name` is no dimension.
    """
    dimensions = dict.fromkeys(d.dim_param for x in inputs for d in x.type.tensor_type.shape.dim if d.dim_param)
    pair = isinstance(given, tuple) and len(given) == 2 and name in dimensions and name not in [x.name for x in inputs]
    if not isinstance(given, range) and not (pair and all(isinstance(x, int) for x in given)):
        return None
    if name not in dimensions:
        raise InputError(
            f"A range is given for {name!r}, which is no named dimension of the model's inputs.",
            did_you_mean(name, dimensions, "Named dimensions"),
        )
    found = given if isinstance(given, range) else range(given[0], given[1] + 1)
    if not found or found.step != 1 or found[0] < 0 or found[-1] > LARGEST:
        raise InputError(
            f"The range given for the dimension {name!r} is {given!r}.",
            f"Give a smallest and a largest size, such as 1..512; none is larger than {LARGEST}.",
        )
    return found


def symbols_of(shapes: Mapping[str, Shape], names: Names) -> dict[str, Symbol]:
    """A symbol for each named dimension with a range, by the dimension's name."""
    for taken in _TAKEN:
        names.reserve(taken)
    return {name: Symbol(names.fresh(name), x[0], x[-1]) for name, x in shapes.items() if isinstance(x, range)}
