"""Row-major addresses of accesses, and which operators move no bytes at all."""

from __future__ import annotations

from collections.abc import Container, Sequence

from tilewright.ir import dtypes
from tilewright.ir.bounds import linear_terms, simplify
from tilewright.ir.expr import Expr, Load, const, variables
from tilewright.ir.ops import TensorOp
from tilewright.views.maps import axis_bounds

PART_ALIGNMENT = 64
"""Bytes that parts of an input begin at a multiple of: one cache line, four times the widest access of a kernel."""


def address(index: Sequence[Expr], shape: Sequence[Expr]) -> Expr:
    """The element number of `index` in a row-major tensor."""
    position: Expr = const(0)
    for at, extent in zip(index, shape, strict=True):
        position = position * extent + at
    return position


def is_movement(op: object) -> bool:
    """Whether the operator only moves or converts elements: pad, transpose, slice, broadcast, reshape, cast."""
    if not isinstance(op, TensorOp) or op.combiner is not None or op.is_scatter:
        return False
    if len(op.reads) != 1 or len(op.writes) != 1 or op.writes[0].guard is not None:
        return False
    body = op.body[0]
    moved = Load(0, op.reads[0].value.dtype)
    return body == moved or (getattr(body, "args", ()) == (moved,) and getattr(body, "op", "") == "cast")


def is_view(op: object) -> bool:
    """Whether every element keeps its row-major address and its dtype, so that the result is the operand's memory."""
    if not isinstance(op, TensorOp) or _distance(op) != 0:
        return False
    return op.reads[0].value.num_elements() == op.writes[0].value.num_elements()


def part_offset(op: object, inputs: Container[str]) -> int | None:
    """Where in an input's memory the result of an operator stands, in bytes, when it is an aligned part of it.

    Args:
        inputs: names of the program's inputs, which nothing overwrites.

    Returns:
        None for any other operator, views of the whole included.
    """
    if not isinstance(op, TensorOp) or not op.reads or op.reads[0].value.name not in inputs:
        return None
    distance = _distance(op)
    if distance is None or not op.writes[0].value.is_static or is_view(op):
        return None
    offset = distance * dtypes.size_of(op.reads[0].value.dtype)
    return None if offset % PART_ALIGNMENT else offset


def _distance(op: TensorOp) -> int | None:
    """The address of an element of the operand less the address of the result's element that it becomes; None when it
    is not the same for all, or when elements are computed, converted or filled in."""
    if not is_movement(op) or op.reads[0].guard is not None:
        return None
    read, write = op.reads[0], op.writes[0]
    if read.value.dtype != write.value.dtype or op.body[0] != Load(0, read.value.dtype):
        return None
    source, first = _expanded(address(read.index, read.value.shape))
    target, second = _expanded(address(write.index, write.value.shape))
    return first - second if simplify(source - target, axis_bounds(op.axes)) == const(0) else None


def _expanded(expr: Expr) -> tuple[Expr, int]:
    """`expr` as a sum of terms in a canonical order, so that equal sums look equal, and its constant."""
    total: Expr = const(0)
    constant = 0
    for factor, term in sorted(linear_terms(expr), key=lambda item: repr(item[1])):
        if variables(term):
            total = total + term * factor
        else:
            constant += factor
    return total, constant
