"""`reordered` (up to the order of sums): values stored with their dimensions in another order.

Only how elements are addressed changes: no operator is added. Operators that touch such a value walk their axes in the
new order of memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tilewright.ir.expr import Expr, variables
from tilewright.ir.ops import Access, Axis, Region, TensorOp, Value, Write

Order = tuple[int, ...]
"""For each dimension as it is stored, outermost first, the dimension that it was."""


def reordered(region: Region, orders: Mapping[Value, Order]) -> Region:
    """The region with values stored in other orders.

    Args:
        orders: of values that operators of the region make, and that tensor operators of it alone read.
    """
    new = {v: attrs.evolve(v, shape=tuple(v.shape[i] for i in order)) for v, order in orders.items()}
    ops = tuple(_reordered(op, orders, new) if isinstance(op, TensorOp) else op for op in region.ops)
    return attrs.evolve(region, ops=ops)


def _reordered(op: TensorOp, orders: Mapping[Value, Order], new: Mapping[Value, Value]) -> TensorOp:
    if not any(v in orders for v in (*op.inputs, *op.outputs)):
        return op

    def index(value: Value, at: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(at[i] for i in orders[value]) if value in orders else tuple(at)

    def read(access: Access) -> Access:
        return attrs.evolve(access, value=new.get(access.value, access.value), index=index(access.value, access.index))

    def write(one: Write) -> Write:
        base = None if one.base is None else new.get(one.base, one.base)
        return attrs.evolve(one, value=new.get(one.value, one.value), index=index(one.value, one.index), base=base)

    reads, writes = tuple(map(read, op.reads)), tuple(map(write, op.writes))
    spatial, reduce = op.spatial, op.reduce
    if any(w.value in orders for w in op.writes):
        spatial = _along(spatial, writes[0].index)
    moved = next((new for old, new in zip(op.reads, reads, strict=True) if old.value in orders), None)
    if moved is not None and op.combiner is not None and op.combiner.commutative:
        reduce = _along(reduce, moved.index)
    return attrs.evolve(op, axes=(*spatial, *reduce), reads=reads, writes=writes)


def _along(axes: Sequence[Axis], index: Sequence[Expr]) -> tuple[Axis, ...]:
    """The axes in the order of the dimensions that they walk along; those of one dimension stay as they are."""

    def dimension(axis: Axis) -> int:
        return next((i for i, at in enumerate(index) if axis.name in variables(at)), -1)

    return tuple(sorted(axes, key=dimension))
