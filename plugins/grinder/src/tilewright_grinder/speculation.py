"""What may run although nobody asked for it yet, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.bounds import Bounds, Interval, bounds_of
from tilewright.ir.expr import Apply, Const, Expr, Load, Var, loads, map_expr, walk
from tilewright.ir.ops import Access, Axis, Op, ScanOp, TensorOp, Value
from tilewright.views.maps import axis_bounds

_TRAPPING = ("floordiv", "floormod", "truncdiv", "truncmod")
_COSTLY = frozenset(
    (
        *("exp", "log", "sqrt", "rsqrt", "erf", "sin", "cos", "tan", "asin", "acos", "atan"),
        *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "div", "pow", *_TRAPPING),
    )
)


def cannot_fail(op: Op, ranges: Bounds, symbols: Bounds) -> bool:
    """Whether an operator may run on any data: it ends, divides no integer by zero and reads only what exists.

    Args:
        ranges: the numbers that scalars may be, by name.
    """
    if not isinstance(op, TensorOp | ScanOp):
        return False
    axes = op.axes if isinstance(op, TensorOp) else (*op.axes, op.scan)
    known = {**axis_bounds(axes, symbols), **_by_slot(op.reads, ranges)}
    for read in op.reads:
        if not all(_inside(at, extent, known) for at, extent in zip(read.index, read.value.shape, strict=True)):
            return False
    for write in op.writes:
        if loads(*write.index):
            return False
    return not any(_traps(node) for expr in expressions(op) for node in walk(expr))


def _by_slot(reads: Iterable[Access], ranges: Mapping[str, Interval]) -> dict[str, Interval]:
    return {f"%{n}": ranges[x.value.name] for n, x in enumerate(reads) if x.value.name in ranges}


def named_loads(expr: Expr) -> Expr:
    """The expression with the variable `%n` in the place of `Load(n)` of integers, so that it can have bounds."""
    return map_expr(expr, lambda x: Var(f"%{x.slot}", x.dtype) if isinstance(x, Load) else None)


def _inside(at: Expr, extent: Expr, known: Bounds) -> bool:
    """Whether an index stays within its dimension; what does not depend on data, the verifier has checked."""
    if not loads(at):
        return True
    found = bounds_of(named_loads(at), known)
    return found.low >= 0 and found.high < bounds_of(extent, known).low


def _traps(node: Expr) -> bool:
    if not isinstance(node, Apply) or not dtypes.is_integer(node.dtype):
        return False
    if node.op == "pow":
        return True
    divisor = node.args[-1]
    return node.op in _TRAPPING and not (isinstance(divisor, Const) and divisor.value not in (0, -1))


def expressions(op: TensorOp | ScanOp) -> list[Expr]:
    """Every expression that an operator evaluates."""
    found: list[Expr | None] = [y for x in op.reads for y in (*x.index, x.guard)]
    found += [y for x in op.writes for y in (*x.index, x.guard)]
    found += op.body if isinstance(op, TensorOp) else (*op.init, *op.step, *op.results)
    return [x for x in found if x is not None]


def is_costly(op: TensorOp) -> bool:
    """Whether computing the results once and reading them is less work than computing them where they are read."""
    return op.combiner is not None or any(
        isinstance(x, Apply) and x.op in _COSTLY and not _is_index(x) for body in op.body for x in walk(body)
    )


def _is_index(node: Apply) -> bool:
    """Whether it is arithmetic on a point of the domain, not on data."""
    return not loads(node)


def seconds(op: Op, device: DeviceModel, symbols: Bounds) -> float:
    """Predicted seconds of a tensor operator or scan: arithmetic or bytes, and a launch if it is no element-wise one.

    Bytes come from the nearest memory that all units share and that holds them.
    """
    assert isinstance(op, TensorOp | ScanOp)
    axes: tuple[Axis, ...] = op.axes if isinstance(op, TensorOp) else (*op.axes, op.scan)
    points = math.prod(max(bounds_of(x.extent, symbols).high, 1) for x in axes)
    work = sum(isinstance(x, Apply) for expr in expressions(op) for x in walk(expr))
    size = {x: bytes_of(x, symbols) for x in {*op.inputs, *op.outputs}}
    # A row of a large tensor is read, not all of it.
    moved = sum(min(n, points * dtypes.size_of(x.dtype)) for x, n in size.items())
    shared = [x for x in device.levels if x.shared_by_units and x.bytes >= moved] or [device.levels[0]]
    own = device.launch_seconds if is_kernel(op) else 0.0
    return max(points * max(work, 1) / device.peak["fma"], moved / shared[-1].bandwidth) + own


def is_kernel(op: Op) -> bool:
    """Whether an operator is a kernel of its own, rather than part of one beside it."""
    return not isinstance(op, TensorOp) or op.combiner is not None


def bytes_of(value: Value, symbols: Bounds) -> int:
    """Bytes of a value, symbols at their upper bounds."""
    return math.prod(bounds_of(x, symbols).high for x in value.shape) * dtypes.size_of(value.dtype)
