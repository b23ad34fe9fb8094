"""Which symbols a group's code depends on."""

from __future__ import annotations

from tilewright.ir.expr import variables
from tilewright.ir.group import Group
from tilewright.ir.module import Symbol
from tilewright.ir.ops import ScanOp, TensorOp


def group_symbols(group: Group, symbols: tuple[Symbol, ...]) -> tuple[Symbol, ...]:
    """Those of the `symbols` that the group's shapes, extents, indices or bodies use, in their order."""
    if not symbols:
        return ()
    used = variables(*(n for v in (*group.inputs, *group.outputs) for n in v.shape))
    for op in group.ops:
        used |= variables(*(n for v in op.outputs for n in v.shape))
        if not isinstance(op, TensorOp | ScanOp):
            continue
        used |= variables(*(x.extent for x in op.axes))
        for read in op.reads:
            used |= variables(*read.index, read.guard)
        for write in op.writes:
            used |= variables(*write.index, write.guard)
        used |= variables(*(op.body if isinstance(op, TensorOp) else (op.scan.extent, *op.init, *op.step, *op.results)))
    return tuple(x for x in symbols if x.name in used)
