"""`pack` (bitwise): a constant operand in the order in which its kernel reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.interpret.evaluate import evaluate
from tilewright.ir.expr import static
from tilewright.ir.program import PackedConstant

CHUNK = 1 << 20
"""Elements gathered at a time: index arrays cost 8 bytes an element, and weights can be hundreds of megabytes."""


def packed_array(constant: PackedConstant, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The packed tensor, of the packing's shape and the dtype of `data`.

    Args:
        data: the tensor that the access reads, in its own layout.
    """
    shape = constant.packing.shape
    result = np.zeros(shape, data.dtype)
    for block in _blocks(shape):
        result[block] = _gather(constant, data, block)
    return result


def _blocks(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Covers `shape` by boxes of at most `CHUNK` elements: single positions outside, a run of one axis, all inside."""
    axis = 0
    while axis + 1 < len(shape) and math.prod(shape[axis + 1 :]) > CHUNK:
        axis += 1
    run = max(1, CHUNK // max(1, math.prod(shape[axis + 1 :])))
    for outer in np.ndindex(*shape[:axis]):
        for start in range(0, shape[axis], run):
            inner = (slice(start, min(shape[axis], start + run)), *(slice(0, x) for x in shape[axis + 1 :]))
            yield (*(slice(x, x + 1) for x in outer), *inner)


def _gather(constant: PackedConstant, data: npt.NDArray[Any], block: Sequence[slice]) -> npt.NDArray[Any]:
    dims = constant.packing.dims
    grid = np.ix_(*(np.arange(part.start, part.stop) for part in block))
    points: Mapping[str, Any] = {name: column for (name, _), column in zip(dims, grid, strict=True)}
    extents = {x.name: static(x.extent, f"extent of {x.name}") for x in constant.axes}
    inside: Any = np.True_
    at: dict[str, Any] = {}
    for name, expr in constant.packing.axes:
        position = evaluate(expr, points)
        good = (position >= 0) & (position < extents[name])
        inside = inside & good
        at[name] = np.where(good, position, 0)
    access = constant.access
    allowed: Any = inside
    if access.guard is not None:
        allowed = inside & evaluate(access.guard, at)
    index = tuple(
        np.clip(evaluate(expr, at), 0, extent - 1) for expr, extent in zip(access.index, data.shape, strict=True)
    )
    fill = 0 if access.fill is None else access.fill.value
    found = data[index]
    picked = np.where(allowed, found, np.where(inside, np.asarray(fill, data.dtype), np.zeros((), data.dtype)))
    return np.broadcast_to(picked, [part.stop - part.start for part in block])
