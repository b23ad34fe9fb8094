"""Iteration domains as NumPy arrays: ranges of axes, and the reads of an operator over a block of its domain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.errors import InternalError
from tilewright.interpret.evaluate import evaluate
from tilewright.ir.expr import Const, Expr, Var, variables
from tilewright.ir.expr import loads as slots
from tilewright.ir.ops import Access

Array = npt.NDArray[Any]
Range = tuple[int, int]


@attrs.frozen
class Block:
    """A box of an iteration domain.

    Args:
        names: the axes, outermost first; axis k is dimension k of every array.
        ranges: half-open range of each axis.
    """

    names: tuple[str, ...]
    ranges: tuple[Range, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(high - low for low, high in self.ranges)

    def size(self, axes: Sequence[int] | None = None) -> int:
        """Number of points, over some of the axes if given."""
        return math.prod(x for n, x in enumerate(self.shape) if axes is None or n in axes)

    def variables(self, symbols: Mapping[str, Any]) -> dict[str, Any]:
        """An array per axis, broadcastable against those of the others; and the symbols."""
        found = dict(symbols)
        for n, (name, (low, high)) in enumerate(zip(self.names, self.ranges, strict=True)):
            shape = [1] * len(self.names)
            shape[n] = high - low
            found[name] = np.arange(low, high, dtype=np.int64).reshape(shape)
        return found

    def cut(self, axis: int) -> tuple[Block, Block]:
        """Two halves along an axis."""
        low, high = self.ranges[axis]
        middle = (low + high) // 2
        before, after = list(self.ranges), list(self.ranges)
        before[axis], after[axis] = (low, middle), (middle, high)
        return Block(self.names, tuple(before)), Block(self.names, tuple(after))


def blocks(whole: Block, limit: int, measure: Callable[[Block], tuple[int, Sequence[int]]]) -> Iterator[Block]:
    """`whole` in parts whose measure is at most `limit`, in the order of the domain along each cut axis.

    `measure` gives a size and the axes to cut, the most wanted first.
    """
    size, axes = measure(whole)
    axis = next((n for n in axes if whole.shape[n] > 1), None)
    if size <= limit or axis is None:
        yield whole
        return
    for half in whole.cut(axis):
        yield from blocks(half, limit, measure)


def read(access: Access, data: Array, env: Mapping[str, Any], loads: Mapping[int, Array], block: Block) -> Array:
    """The values of a read at the points of a block; axes that it does not depend on have extent 1 in the result.

    Raises:
        InternalError: an index is out of range where the guard holds.
    """
    direct = _view(access, data, block)
    if direct is not None:
        return direct
    index = [evaluate(x, env, loads) for x in access.index]
    if access.guard is None:
        for dim, (at, extent) in enumerate(zip(index, data.shape, strict=True)):
            if at.size and (at.min() < 0 or at.max() >= extent):
                raise InternalError(f"A read of {access.value.name} leaves its dimension {dim} of {extent}.")
        return np.asarray(data[tuple(index)])
    guard = evaluate(access.guard, env, loads)
    fill = np.asarray(0 if access.fill is None else access.fill.value, data.dtype)
    if data.size == 0:
        if guard.any():
            raise InternalError(f"A read of {access.value.name} touches an empty tensor.")
        return np.broadcast_to(fill, guard.shape)
    safe = []
    for dim, (at, extent) in enumerate(zip(index, data.shape, strict=True)):
        inside = np.clip(at, 0, extent - 1)
        if at.size and (at.min() < 0 or at.max() >= extent) and ((inside != at) & guard).any():
            raise InternalError(f"A guarded read of {access.value.name} leaves its dimension {dim} of {extent}.")
        safe.append(inside)
    return np.asarray(np.where(guard, data[tuple(safe)], fill))


def _view(access: Access, data: Array, block: Block) -> Array | None:
    """The read as a view of the data, when every index is an axis of its own or a literal."""
    if access.guard is not None:
        return None
    cut: list[Any] = []
    axes: list[int] = []
    for at, extent in zip(access.index, data.shape, strict=True):
        if isinstance(at, Const) and 0 <= int(at.value) < extent:
            cut.append(int(at.value))
        elif isinstance(at, Var) and at.name in block.names:
            axis = block.names.index(at.name)
            low, high = block.ranges[axis]
            if axis in axes or low < 0 or high > extent:
                return None
            cut.append(slice(low, high))
            axes.append(axis)
        else:
            return None
    return spread(data[tuple(cut)], axes, len(block.names))


def spread(data: Array, axes: Sequence[int], rank: int) -> Array:
    """`data`, whose dimension k belongs to axis `axes[k]`, with one dimension for each of `rank` axes."""
    order = sorted(range(len(axes)), key=lambda k: axes[k])
    shape = [1] * rank
    for k in order:
        shape[axes[k]] = data.shape[k]
    return data.transpose(order).reshape(shape)


def used_axes(access: Access, names: Sequence[str], found: Mapping[int, frozenset[str]]) -> frozenset[str]:
    """Names of the axes that a read depends on, through the reads that its index uses as well."""
    exprs: tuple[Expr | None, ...] = (*access.index, access.guard)
    own = variables(*exprs) & frozenset(names)
    return own.union(*(found[slot] for slot in slots(*exprs)))
