"""Selections as recipes see them, on every target."""

from __future__ import annotations

import math

import attrs

from tilewright.ir import dtypes
from tilewright.ir.expr import Const
from tilewright.ir.ops import Routine
from tilewright.recipes import Operand


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


def row_operands(routine: Routine, found: TopK) -> tuple[Operand, ...]:
    """The operand as `length` elements of each of the `rows`, and the results as `count` of them."""
    (source,) = routine.inputs
    made = [Operand(source.name, dtypes.size_of(source.dtype), found.rows * found.length, ("rows", "length"))]
    for result in routine.outputs:
        elements = found.rows * found.count
        made.append(Operand(result.name, dtypes.size_of(result.dtype), elements, ("rows", "count"), outside=True))
    return tuple(
        attrs.evolve(x, along=x.roles[1], stride=1, run=found.count if x.outside else found.length) for x in made
    )


def memory_bytes(routine: Routine) -> int:
    """Bytes of the operand and of the results."""
    return sum(math.prod(x.static_shape()) * dtypes.size_of(x.dtype) for x in (*routine.inputs, *routine.outputs))
