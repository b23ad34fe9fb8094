"""Writing states: rounding to the value's dtype, scatters, and elements that nothing wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.errors import InternalError
from tilewright.interpret.domain import Block
from tilewright.interpret.evaluate import evaluate
from tilewright.interpret.reduction import merge, ufunc_of
from tilewright.ir import dtypes
from tilewright.ir.expr import Const, Expr, Var
from tilewright.ir.ops import Combiner, Write

Array = npt.NDArray[Any]


class Target:
    """The value of one write, filled block by block.

    Args:
        base: the array whose elements stand where nothing is written; None when the writes must cover the value.
    """

    def __init__(self, write: Write, shape: tuple[int, ...], base: Array | None) -> None:
        self._write = write
        dtype = dtypes.to_numpy(write.value.dtype)
        self._data = np.empty(shape, dtype) if base is None else np.array(base, dtype)
        self._covered = np.zeros(shape, np.bool_) if base is None else None

    def store(self, state: Array, block: Block, env: Mapping[str, Any], loads: Mapping[int, Array]) -> None:
        """Writes the states of the points of a block (one dimension per spatial axis)."""
        write = self._write
        with np.errstate(all="ignore"):
            rounded = state.astype(self._data.dtype, copy=False)
        if write.guard is None and write.update is None:
            place = _plain(write.index, block)
            if place is not None:
                cut, order = place
                self._data[cut] = rounded.transpose(order)
                if self._covered is not None:
                    self._covered[cut] = True
                return
        index = [np.broadcast_to(evaluate(x, env, loads), block.shape).reshape(-1) for x in write.index]
        flat = rounded.reshape(-1)
        if write.guard is not None:
            chosen = np.broadcast_to(evaluate(write.guard, env, loads), block.shape).reshape(-1)
            index, flat = [x[chosen] for x in index], flat[chosen]
        for dim, (at, extent) in enumerate(zip(index, self._data.shape, strict=True)):
            if at.size and (at.min() < 0 or at.max() >= extent):
                raise InternalError(f"A write to {write.value.name} leaves its dimension {dim} of {extent}.")
        where = tuple(index)
        if write.update is None:
            self._data[where] = flat  # of equal indices the last one wins, which is the order of the domain
        else:
            _update(self._data, where, flat, write.update)
        if self._covered is not None:
            self._covered[where] = True

    def finish(self) -> Array:
        """The value. Raises InternalError when an element was never written."""
        if self._covered is not None and not self._covered.all():
            hole = [int(x[0]) for x in np.nonzero(~self._covered)]
            raise InternalError(f"Element {hole} of {self._write.value.name} is written by no point of its operator.")
        return self._data


def _plain(index: tuple[Expr, ...], block: Block) -> tuple[tuple[Any, ...], list[int]] | None:
    """Slices of the value and the order of the axes, when each index is an axis of its own or a literal."""
    cut: list[Any] = []
    order: list[int] = []
    for at in index:
        if isinstance(at, Const):
            cut.append(int(at.value))
        elif isinstance(at, Var) and at.name in block.names and block.names.index(at.name) not in order:
            order.append(block.names.index(at.name))
            cut.append(slice(*block.ranges[order[-1]]))
        else:
            return None
    if len(order) != len(block.names):
        return None
    return tuple(cut), order


def _update(data: Array, where: tuple[Array, ...], values: Array, how: Combiner) -> None:
    """Merges values into what stands there, one after the other."""
    known = ufunc_of(how)
    with np.errstate(all="ignore"):
        if known is not None and data.dtype.kind != "V" and data.dtype.isbuiltin == 1:
            known.at(data, where, values)
            return
        carried = dtypes.to_numpy(how.dtypes[0])
        for n in range(values.size):
            at = tuple(x[n] for x in where)
            merged = merge(how, [np.asarray(data[at], carried)], [np.asarray(values[n], carried)])
            data[at] = merged[0].astype(data.dtype)
