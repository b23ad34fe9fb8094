"""Which inputs may steer shapes: candidates for binding to their values when a model cannot be compiled without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


def bindings(feeds: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Sets of inputs to bind, the smallest first: none, what may count trips or switch, what may hold shapes.

    Args:
        feeds: the arrays of all inputs, in the model's order.
    """
    yield {}
    yield {name: x for name, x in feeds.items() if x.size == 1 and x.dtype.kind in "ib"}
    # Vectors and scalars behind the first input (sizes, axes, factors), or a lone vector of integers.
    yield {
        name: x
        for position, (name, x) in enumerate(feeds.items())
        if x.ndim <= 1 and (position > 0 or (x.dtype.kind == "i" and len(feeds) == 1) or x.ndim == 0)
    }
