"""What the recipes for TopK share: the routine as a selection from rows."""

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
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes that a row's elements and results take."""
        size = dtypes.size_of(self.dtype)
        return self.length * size + self.count * (size + dtypes.size_of("int64"))


def topk_of(routine: Routine) -> TopK | None:
    """The routine as a selection, or None when it is another kind or has symbolic extents."""
    if routine.kind != "topk" or not all(isinstance(n, Const) for n in routine.inputs[0].shape):
        return None
    *rows, length = routine.inputs[0].static_shape()
    attributes = dict(routine.attributes)
    count, largest = int(attributes["count"]), bool(attributes["largest"])
    return TopK(math.prod(rows), length, count, largest, routine.inputs[0].dtype)
