"""Row-major addresses of accesses, and which operators move no bytes at all."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.bounds import linear_terms, simplify
from tilewright.ir.expr import Expr, Load, const, variables
from tilewright.ir.ops import TensorOp
from tilewright.views.maps import axis_bounds


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
    if not is_movement(op) or not isinstance(op, TensorOp) or op.reads[0].guard is not None:
        return False
    read, write = op.reads[0], op.writes[0]
    if read.value.dtype != write.value.dtype or op.body[0] != Load(0, read.value.dtype):
        return False
    if read.value.num_elements() != write.value.num_elements():
        return False
    source = address(read.index, read.value.shape)
    target = address(write.index, write.value.shape)
    return simplify(_expanded(source) - _expanded(target), axis_bounds(op.axes)) == const(0)


def _expanded(expr: Expr) -> Expr:
    """`expr` as a sum of terms in a canonical order, so that equal sums look equal."""
    total: Expr = const(0)
    for factor, term in sorted(linear_terms(expr), key=lambda item: repr(item[1])):
        total = total + (term * factor if variables(term) else const(factor))
    return total
