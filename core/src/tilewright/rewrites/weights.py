"""`weights_by_rows` (bitwise): matrices that few rows are multiplied with, stored with what is summed innermost.

`x · W` of one row reads each element of `W` once, so what counts is how memory delivers it: where the products that one
result sums lie together, a task reads whole pieces of the weight, and a unit can keep these. Only how the weight is
stored and addressed changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import numpy as np

from tilewright.ir.expr import Const, Var, number_of
from tilewright.ir.module import Constant, Function, Module
from tilewright.ir.ops import Access, Call, If, Loop, Op, Region, TensorOp, Value, bodies
from tilewright.rewrites.rename import with_values
from tilewright.rewrites.reorder import Order

FEW = 8
"""Rows up to which a product is bound by reading its weight once; with more, operands are packed for tiles."""


def weights_by_rows(module: Module, most: int = FEW) -> Module:
    """The module with weights that only such products read turned.

    Args:
        most: rows of a product up to which its weight is turned.
    """
    orders: dict[str, Order] = {}
    kept: set[str] = set()
    for function in module.functions.values():
        for value, order in _uses(function.body, module.constants, most):
            if not order or orders.setdefault(value.name, order) != order:
                kept.add(value.name)
    orders = {name: order for name, order in orders.items() if name not in kept}
    if not orders:
        return module
    turned = {
        name: Constant(np.ascontiguousarray(module.constants[name].data.transpose(order)))
        for name, order in orders.items()
    }
    functions = {name: Function(name, _turned(x.body, orders, turned)) for name, x in module.functions.items()}
    return attrs.evolve(module, functions=functions, constants={**module.constants, **turned})


def _uses(region: Region, constants: Mapping[str, Constant], most: int) -> Iterator[tuple[Value, Order]]:
    """Each use of a constant in a region and those inside, with the order that it wants; () where it wants none."""
    for op in region.ops:
        if isinstance(op, TensorOp):
            for read in op.reads:
                if read.value.name in constants:
                    yield read.value, _order(op, read, most)
            yield from ((w.base, ()) for w in op.writes if w.base is not None)
        else:
            yield from ((x, ()) for x in _given(op) if x is not None)
        for body in bodies(op):
            yield from _uses(body, constants, most)
    yield from ((x, ()) for x in region.results)


def _given(op: Op) -> tuple[Value | None, ...]:
    """The operands of an operator itself, without what the regions in it read."""
    match op:
        case Loop():
            return (op.trip, op.condition, *op.carried)
        case If():
            return (op.condition,)
        case Call():
            return op.inputs
    return tuple(op.inputs)


def _order(op: TensorOp, read: Access, most: int) -> Order:
    """The order of a weight's dimensions in which what is summed is innermost; () where it is, or is not to be."""
    at = [x.name for x in read.index if isinstance(x, Var)]
    if op.combiner is None or read.guard is not None or len(at) != len(read.index) or len({*at}) != len(at):
        return ()
    summed = [x.name for x in op.reduce]
    if not summed or not {*summed} <= {*at} or at[-1] in summed:
        return ()
    rows = number_of(x.extent for x in op.spatial if x.name not in at)
    if not isinstance(rows, Const) or rows.value > most:
        return ()
    return (*(i for i, x in enumerate(at) if x not in summed), *(at.index(x) for x in summed))


def _turned(region: Region, orders: Mapping[str, Order], constants: Mapping[str, Constant]) -> Region:
    def read(access: Access) -> Access:
        order = orders.get(access.value.name)
        if order is None:
            return access
        index = tuple(access.index[i] for i in order)
        return attrs.evolve(access, value=constants[access.value.name].value(access.value.name), index=index)

    def turned(op: Op) -> Op:
        if isinstance(op, TensorOp):
            return attrs.evolve(op, reads=tuple(map(read, op.reads)))
        return with_values(op, lambda x: x, lambda body: _turned(body, orders, constants)) if bodies(op) else op

    return attrs.evolve(region, ops=tuple(map(turned, region.ops)))
