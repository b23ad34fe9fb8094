"""Integers that are known while compiling, up to symbols: what exporters compute from shapes to reshape with.

Such a tensor is an array of integers and expressions. It is also an operator without reads, in case that something
needs it while running; what only decides shapes is dropped with it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tilewright.frontend import fold
from tilewright.ir import dtypes
from tilewright.ir.bounds import Bounds, bounds_of, simplify
from tilewright.ir.expr import (
    Apply,
    Const,
    Expr,
    Extent,
    apply,
    as_expr,
    as_extent,
    cast,
    const,
    eq,
    select,
    substitute,
    variables,
)
from tilewright.ir.ops import Axis, Location, TensorOp, Value, Write
from tilewright.ir.polynomial import canonical
from tilewright.ir.text import print_expr

Numbers = npt.NDArray[Any]
"""An array of Python integers and expressions."""

LARGEST = 64
"""Elements up to which a tensor of symbolic integers is followed."""


def numbers(data: npt.NDArray[Any]) -> Numbers:
    """A constant's integers or bools."""
    return data.astype(object)


def settled(found: Any, bounds: Bounds) -> Numbers:
    """The numbers in the one way to write them, with what the bounds decide carried out."""
    given = np.asarray(found, object)
    result: Numbers = np.empty(given.shape, object)
    for at in np.ndindex(*given.shape):
        item: Any = given[at]
        result[at] = settle(item, bounds) if isinstance(item, Expr) else item
    return result


def settle(expr: Expr, bounds: Bounds) -> Expr | int | bool:
    """An expression in the one way to write it; a number where it has one value only."""
    decided = _compared(simplify(expr, bounds), bounds)
    if decided.dtype == "int64":
        decided = canonical(decided)
        interval = bounds_of(decided, bounds)
        return interval.low if interval.is_point() else as_extent(decided)
    return bool(decided.value) if isinstance(decided, Const) else decided


def _compared(expr: Expr, bounds: Bounds) -> Expr:
    """`expr` with comparisons of integers decided where the bounds of the difference do."""
    if not isinstance(expr, Apply):
        return expr
    args = tuple(_compared(x, bounds) for x in expr.args)
    if expr.op in ("eq", "ne", "min", "max", "lt", "le") and args[0].dtype == "int64":
        inside = bounds_of(canonical(args[0] - args[1]), bounds)
        match expr.op:
            case "min" | "max" if inside.high <= 0 or inside.low >= 0:
                return args[(inside.high <= 0) == (expr.op == "max")]
            case "lt" | "le" if inside.high < 0 or inside.low > 0:
                return const(inside.high < 0, "bool")
            case "eq" | "ne" if inside.is_point() or inside.low > 0 or inside.high < 0:
                return const((inside.low == inside.high == 0) == (expr.op == "eq"), "bool")
    return cast(args[0], expr.dtype) if expr.op == "cast" else apply(expr.op, *args)


def shown(extent: Extent) -> str:
    """An extent for a message."""
    return print_expr(extent) if isinstance(extent, Expr) else str(extent)


def fixing(*extents: Extent) -> str:
    """The option, as an example, that fixes a dimension which the extents depend on."""
    names = sorted(variables(*(x for x in extents if isinstance(x, Expr))))
    return f"--shape {names[0] if names else 'seq'}=128"


def plain(found: Numbers, dtype: str) -> npt.NDArray[Any] | None:
    """The numbers as an array of `dtype` when none of them is symbolic."""
    if any(isinstance(x, Expr) for x in found.flat):
        return None
    return found.astype(dtypes.to_numpy(dtype))


def operator(value: Value, found: Numbers, loc: Location) -> TensorOp:
    """The operator that computes symbolic numbers while the program runs."""
    axes = tuple(Axis(f"i{d}", const(n)) for d, n in enumerate(found.shape) if n != 1)
    index: list[Expr] = []
    position: Expr = const(0)
    left = iter(axes)
    for n in found.shape:
        index.append(next(left).var if n != 1 else const(0))
        position = position * n + index[-1]
    items = [as_expr(x, "bool" if isinstance(x, bool) else "int64") for x in found.flat]
    body = items[-1]
    for n, item in reversed(list(enumerate(items[:-1]))):
        body = select(eq(position, n), item, body)
    return TensorOp(value.name, axes, (), (cast(body, value.dtype),), (Write(value, tuple(index)),), loc=loc)


def contents(op: TensorOp) -> Numbers | None:
    """The numbers that an operator of `operator` computes; None for any other."""
    if op.reads or op.combiner is not None or len(op.writes) != 1 or op.is_scatter or op.writes[0].guard is not None:
        return None
    shape = op.writes[0].value.extents
    if not all(isinstance(n, int) for n in shape) or dtypes.kind(op.writes[0].value.dtype) not in "ib":
        return None
    sizes = [n for n in shape if isinstance(n, int)]
    own = [x.var if x.extent != const(1) else const(0) for x in op.axes]
    if math.prod(sizes) > LARGEST or [x for x in op.writes[0].index if not isinstance(x, Const)] != own:
        return None
    found = np.empty(sizes, object)
    for at in itertools.product(*map(range, sizes)):
        moving = [n for n, size in zip(at, sizes, strict=True) if size != 1]
        place: Mapping[str, Expr] = {x.name: const(n) for x, n in zip(op.axes, moving, strict=True)}
        body = op.body[0]
        inner = body.args[0] if isinstance(body, Apply) and body.op == "cast" else body
        item = substitute(inner, place)
        found[at] = as_extent(item) if item.dtype == "int64" else item
    return found


def evaluate(node: onnx.NodeProto, inputs: Sequence[Numbers | None], bounds: Bounds) -> Numbers | None:
    """The result of a node on numbers, or None when it is not followed there."""
    function = _FUNCTIONS.get(node.op_type)
    if function is None:
        return None
    dividend = inputs[0] if node.op_type == "Div" else None
    if dividend is not None and any(bounds_of(as_expr(x), bounds).low < 0 for x in dividend.flat):
        return None  # ONNX rounds to zero, expressions to minus infinity
    try:
        found = function(node, *inputs)
    except (IndexError, TypeError, ValueError):
        return None  # shape inference says what is wrong with the node
    if found is None or np.size(found) > LARGEST:
        return None
    return settled(found, bounds)


def _each(function: Callable[..., Any]) -> Callable[..., Any]:
    """An element-wise function of expressions, with broadcasting."""

    def run(node: onnx.NodeProto, *inputs: Numbers) -> Numbers:
        arrays: Sequence[Any] = np.broadcast_arrays(*inputs)
        found = np.empty(arrays[0].shape, object)
        for at in np.ndindex(*found.shape):
            items = [x[at] for x in arrays]
            found[at] = function(*(as_expr(x, "bool" if isinstance(x, bool) else "int64") for x in items))
        return found

    return run


def _divided(a: Expr, b: Expr) -> Expr:
    if not isinstance(b, Const) or b.value <= 0:
        raise ValueError("only divisions by positive literals are followed")
    return apply("floordiv", a, b)


def _reshape(node: onnx.NodeProto, data: Numbers, shape: Numbers) -> Numbers | None:
    if any(isinstance(x, Expr) for x in shape.flat):
        return None
    return data.reshape([data.shape[d] if n == 0 else n for d, n in enumerate(shape.flat)])


def _slice(node: onnx.NodeProto, data: Numbers, *bounds: Numbers | None) -> Numbers | None:
    if any(x is not None and plain(x, "int64") is None for x in bounds) or len(bounds) < 2:
        return None
    starts, ends, *rest = (None if x is None else [int(n) for n in x.flat] for x in bounds)
    if starts is None or ends is None:
        return None
    axes = rest[0] if rest and rest[0] is not None else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 and rest[1] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, count = fold.slice_range(start, end, step, data.shape[axis])
        data = np.take(data, first + step * np.arange(count), axis=axis)
    return data


def _positions(given: Numbers) -> npt.NDArray[np.int64]:
    found = plain(given, "int64")
    if found is None:
        raise ValueError("a position is symbolic")
    return found


def _axes(node: onnx.NodeProto, given: Numbers | None) -> tuple[int, ...] | None:
    found = fold.attribute(node, "axes") if given is None else _positions(given).reshape(-1).tolist()
    return None if found is None else tuple(found)


def _reduced(function: Callable[[Expr, Expr], Expr], start: int) -> Callable[..., Any]:
    def run(node: onnx.NodeProto, data: Numbers, axes: Numbers | None = None) -> Numbers | None:
        chosen = _axes(node, axes)
        if data.ndim != 1 or chosen not in (None, (0,), (-1,)):
            return None
        total: Expr = const(start)
        for item in data:
            total = function(total, as_expr(item))
        keep = bool(fold.attribute(node, "keepdims", 1))
        found = np.empty((1,) if keep else (), object)
        found[...] = total
        return found

    return run


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Identity": lambda node, data: data,
    "Gather": lambda node, data, at: np.asarray(np.take(data, _positions(at), axis=fold.attribute(node, "axis", 0))),
    "Concat": lambda node, *parts: np.concatenate(parts, axis=fold.attribute(node, "axis")),
    "Unsqueeze": lambda node, data, axes=None: np.expand_dims(data, _axes(node, axes) or ()),
    "Squeeze": lambda node, data, axes=None: np.squeeze(data, _axes(node, axes)),
    "Reshape": _reshape,
    "Slice": _slice,
    "Add": _each(lambda a, b: a + b),
    "Sub": _each(lambda a, b: a - b),
    "Mul": _each(lambda a, b: a * b),
    "Div": _each(_divided),
    "Neg": _each(lambda a: -a),
    "Min": _each(lambda a, b: apply("min", a, b)),
    "Max": _each(lambda a, b: apply("max", a, b)),
    "Equal": _each(eq),
    "Less": _each(lambda a, b: a < b),
    "LessOrEqual": _each(lambda a, b: a <= b),
    "Greater": _each(lambda a, b: a > b),
    "GreaterOrEqual": _each(lambda a, b: a >= b),
    "Not": _each(lambda a: ~a),
    "And": _each(lambda a, b: a & b),
    "Or": _each(lambda a, b: a | b),
    "Where": _each(select),
    "ReduceProd": _reduced(lambda a, b: a * b, 1),
    "ReduceSum": _reduced(lambda a, b: a + b, 0),
}
"""Operators that are followed on numbers. A cast between integer types is followed by the importer."""
