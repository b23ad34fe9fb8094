"""Selections as recipes see them, on every target."""

from __future__ import annotations

import math

import attrs

from tilewright.ir import dtypes
from tilewright.ir.expr import Const
from tilewright.ir.ops import Routine


@attrs.frozen
class TopK:
    """`count` of `length` elements for each of `rows` rows, the largest or the smallest ones."""

    rows: int
    length: int
    count: int
    largest: bool


def topk_of(routine: Routine) -> TopK | None:
    """The routine as a selection, or None when it is another kind or has symbolic extents."""
    if routine.kind != "topk" or not all(isinstance(n, Const) for n in routine.inputs[0].shape):
        return None
    *rows, length = routine.inputs[0].static_shape()
    attributes = dict(routine.attributes)
    return TopK(math.prod(rows), length, int(attributes["count"]), bool(attributes["largest"]))


def memory_bytes(routine: Routine) -> int:
    """Bytes of the operand and of the results."""
    return sum(math.prod(x.static_shape()) * dtypes.size_of(x.dtype) for x in (*routine.inputs, *routine.outputs))
