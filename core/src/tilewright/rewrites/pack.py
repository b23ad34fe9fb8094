"""`pack` (bitwise): a constant operand in the order in which its kernel reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.interpret.evaluate import evaluate
from tilewright.ir.expr import static
from tilewright.ir.program import PackedConstant

CHUNK = 1 << 22
"""Elements gathered at a time: index arrays cost 8 bytes an element, and weights can be hundreds of megabytes."""


def packed_array(constant: PackedConstant, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The packed tensor, of the packing's shape and the dtype of `data`.

    Args:
        data: the tensor that the access reads, in its own layout.
    """
    shape = constant.packing.shape
    result = np.zeros(shape, data.dtype)
    rows = max(1, CHUNK // max(1, int(np.prod(shape[1:], dtype=np.int64))))
    for start in range(0, shape[0], rows):
        stop = min(shape[0], start + rows)
        result[start:stop] = _gather(constant, data, start, stop)
    return result


def _gather(constant: PackedConstant, data: npt.NDArray[Any], start: int, stop: int) -> npt.NDArray[Any]:
    dims = constant.packing.dims
    ranges = [np.arange(start, stop), *(np.arange(extent) for _, extent in dims[1:])]
    grid = np.ix_(*ranges)
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
    return np.broadcast_to(picked, (stop - start, *(extent for _, extent in dims[1:])))
