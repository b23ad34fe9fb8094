"""Constants of which each task reads rows of its own that lie one after the other: what a unit can keep near it."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

import attrs

from tilewright.ir import dtypes
from tilewright.ir.bounds import Bounds, bounds_of, simplify
from tilewright.ir.choice import Slice
from tilewright.ir.expr import Const, Expr, Var, const, loads, substitute, variables
from tilewright.ir.ops import Axis, Value
from tilewright_backends.lower.flat import FlatAccess, coefficient

OWN = "own row"
"""The variable that stands for a row's number among those of its task."""
_STEP = 16
"""Bytes that slices are multiples of."""


@attrs.frozen
class RowSlice:
    """A read of a constant of which row r is the elements from `first + r * stride` on, all of the next `stride`.

    Args:
        slot: of the read, or of the first of several that are the same.
    """

    slot: int
    access: FlatAccess
    first: int
    stride: int

    def of(self, block: int, rows: int) -> Slice:
        """What a task of so many of all rows reads."""
        size = dtypes.size_of(self.access.value.dtype)
        first, row = self.first * size, self.stride * size
        return Slice(self.slot, first, block * row, first + rows * row)


def row_slices(
    reads: Sequence[FlatAccess | None], rows: Sequence[Axis], bounds: Bounds, constants: Container[str]
) -> tuple[RowSlice, ...]:
    """The reads that are slices, each once.

    Args:
        reads: by slot; None for what is no read of memory.
        rows: the axes that tasks share out: there are slices where it is one.
        bounds: of all axes.
        constants: names of the values that are known at compile time.
    """
    if len(rows) != 1 or not isinstance(rows[0].extent, Const):
        return ()
    found: dict[FlatAccess, RowSlice] = {}
    for slot, access in enumerate(reads):
        if access is None or access in found or access.guard is not None or access.value.name not in constants:
            continue
        stride = coefficient(access.address, rows[0].name)
        inside = simplify(substitute(access.address, {rows[0].name: const(0)}), bounds)
        if not stride or loads(access.address) or not variables(inside):
            continue
        first, last = bounds_of(inside, bounds).low, bounds_of(inside, bounds).high
        sizes = (first, stride) if last - first + 1 == stride else ()
        if sizes and all(x * dtypes.size_of(access.value.dtype) % _STEP == 0 for x in sizes):
            found[access] = RowSlice(slot, access, first, stride)
    return tuple(found.values())


def slices(found: Sequence[RowSlice], rows: int, block: str) -> Callable[[Mapping[str, int]], tuple[Slice, ...]]:
    """The slices of a choice.

    Args:
        block: name of the parameter that says how many rows a task has.
    """
    return lambda params: tuple(x.of(params[block], rows) for x in found)


def name_of(number: int) -> str:
    """What the value is called that a task's slice stands for."""
    return f"slice {number}"


def in_slices(access: FlatAccess, found: Sequence[RowSlice], row: str, bounds: Bounds) -> FlatAccess:
    """The access as one of its slice, if it has one, at row `OWN` of the task.

    Args:
        row: the axis of the rows.
    """
    number = next((i for i, x in enumerate(found) if x.access == access), None)
    if number is None:
        return access
    place: Expr = substitute(access.address, {row: Var(OWN)}) - found[number].first
    value = Value(name_of(number), access.value.dtype, access.value.shape)
    return FlatAccess(value, simplify(place, bounds))
