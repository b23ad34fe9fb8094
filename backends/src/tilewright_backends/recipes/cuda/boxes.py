"""Operands of the tensor cores that the tensor memory accelerator (TMA) can fetch: boxes of a strided array."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.ir import dtypes
from tilewright.ir.bounds import linear_terms, simplify
from tilewright.ir.expr import Const, Var, loads
from tilewright.ir.ops import Axis
from tilewright_backends.lower.flat import FlatSpec, coefficient
from tilewright_backends.recipes.contraction import Contraction
from tilewright_backends.recipes.gpu.common import extent
from tilewright_backends.recipes.gpu.tensor import HalfOperand

WIDTH = 64
"""Elements of a box along memory: 128 bytes, the width of the swizzle."""
_MOST_DIMENSIONS = 5
_UNIT = 16
"""Bytes that addresses and strides are multiples of."""


@attrs.frozen
class Dimension:
    """One dimension of an operand in memory, some neighbouring axes of the kernel fused in it.

    Args:
        axes: outermost first.
        extent: number of points.
        stride: elements from one point to the next.
    """

    axes: tuple[Axis, ...]
    extent: int
    stride: int


@attrs.frozen
class Boxes:
    """An operand as boxes of `WIDTH` elements along memory and some rows.

    Args:
        offset: first element.
        outer: the operand's own axes, as one dimension; None where there is one point.
        k: dimensions of the reduction, outermost first.
        batch: dimensions of the batch, outermost first.
        along_k: whether memory runs along the reduction, or along the outer axes.
    """

    offset: int
    outer: Dimension | None
    k: tuple[Dimension, ...]
    batch: tuple[Dimension, ...]
    along_k: bool

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """All of them, the one along memory first, then outer or reduction, then batch."""
        outer = () if self.outer is None else (self.outer,)
        k = self.k[::-1]
        return (*k[:1], *outer, *k[1:], *self.batch[::-1]) if self.along_k else (*outer, *k, *self.batch[::-1])


def boxes_of(spec: FlatSpec, roles: Contraction, operand: HalfOperand) -> Boxes | None:
    """The operand as boxes, or None when it is computed, guarded, or lies in memory in a way that TMA cannot step."""
    if operand.slot < 0:
        return None
    access = spec.reads[operand.slot]
    if access.guard is not None or loads(access.address):
        return None
    terms = linear_terms(simplify(access.address, spec.bounds()))
    if not all(isinstance(term, Var | Const) for _, term in terms):
        return None
    offset = sum(factor * int(term.value) for factor, term in terms if isinstance(term, Const))
    outer, k, batch = (_dimensions(spec, operand.slot, x) for x in (operand.outer, roles.k, roles.batch))
    if len(outer) > 1 or not k:
        return None
    batch = tuple(x for x in batch if x.stride)
    along_k = k[-1].stride == 1
    found = Boxes(offset, outer[0] if outer else None, k, batch, along_k)
    dimensions = found.dimensions
    if dimensions[0].stride != 1 or len(dimensions) > _MOST_DIMENSIONS or not all(x.stride > 0 for x in dimensions):
        return None
    if any(inner.extent % WIDTH for inner in k[-1:] if len(k) > 1):
        return None
    size = dtypes.size_of(operand.dtype)
    if any(x * size % _UNIT for x in (offset, *(d.stride for d in dimensions[1:]))):
        return None
    return found


def _dimensions(spec: FlatSpec, slot: int, axes: Sequence[Axis]) -> tuple[Dimension, ...]:
    """The axes of more than one point, neighbours fused where memory steps through them as if they were one."""
    found: list[Dimension] = []
    for axis in axes:
        if extent(axis) == 1:
            continue
        stride = coefficient(spec.reads[slot].address, axis.name) or 0
        if found and found[-1].stride == stride * extent(axis):
            last = found.pop()
            found.append(Dimension((*last.axes, axis), last.extent * extent(axis), stride))
        else:
            found.append(Dimension((axis,), extent(axis), stride))
    return tuple(found)
