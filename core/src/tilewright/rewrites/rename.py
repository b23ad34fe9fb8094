"""Other values in the place of those that operators name. Exact."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from tilewright.ir.ops import (
    Access,
    Call,
    If,
    Loop,
    OnnxNode,
    Op,
    Region,
    Routine,
    ScanOp,
    TensorOp,
    Value,
    Write,
)

Of = Callable[[Value], Value]
"""What stands for a value; of the same dtype and shape."""


def with_values(op: Op, of: Of, inside: Callable[[Region], Region] | None = None) -> Op:
    """The operator with other values read and written.

    Args:
        inside: what becomes of the regions in it; by default they get the other values too.
    """
    inner = inside or (lambda region: region_with_values(region, of))

    def maybe(x: Value | None) -> Value | None:
        return None if x is None else of(x)

    def read(x: Access) -> Access:
        return attrs.evolve(x, value=of(x.value))

    def write(x: Write) -> Write:
        return attrs.evolve(x, value=of(x.value), base=maybe(x.base))

    match op:
        case TensorOp():
            inplace = next((of(x.value).name for x in op.reads if x.value.name == op.inplace), "")
            reads, writes = tuple(map(read, op.reads)), tuple(map(write, op.writes))
            return attrs.evolve(op, reads=reads, writes=writes, inplace=inplace)
        case ScanOp():
            return attrs.evolve(op, reads=tuple(map(read, op.reads)), writes=tuple(map(write, op.writes)))
        case Loop():
            return attrs.evolve(
                op,
                trip=maybe(op.trip),
                condition=maybe(op.condition),
                carried=tuple(map(of, op.carried)),
                outputs=tuple(map(of, op.outputs)),
                body=inner(op.body),
            )
        case If():
            return attrs.evolve(
                op,
                condition=of(op.condition),
                then=inner(op.then),
                orelse=inner(op.orelse),
                outputs=tuple(map(of, op.outputs)),
            )
        case Call() | Routine():
            return attrs.evolve(op, inputs=tuple(map(of, op.inputs)), outputs=tuple(map(of, op.outputs)))
        case OnnxNode():
            return attrs.evolve(op, inputs=tuple(map(maybe, op.inputs)), outputs=tuple(map(maybe, op.outputs)))


def region_with_values(region: Region, of: Of) -> Region:
    """The region with other values for its parameters, in its operators and as its results."""
    ops = tuple(with_values(x, of) for x in region.ops)
    return Region(tuple(map(of, region.params)), ops, tuple(map(of, region.results)))


def with_op_names(region: Region, name: Callable[[Op], str]) -> Region:
    """The region with other names for its operators and for those inside them."""

    def renamed(op: Op) -> Op:
        match op:
            case Loop():
                op = attrs.evolve(op, body=with_op_names(op.body, name))
            case If():
                op = attrs.evolve(op, then=with_op_names(op.then, name), orelse=with_op_names(op.orelse, name))
        return attrs.evolve(op, name=name(op))

    return attrs.evolve(region, ops=tuple(map(renamed, region.ops)))
