"""Inverting index maps: from the element of a value back to the point of the domain that wrote or reads it.

The maps that occur are permutations and mixed-radix splits and joins of axes (`h*64 + d`), which is why reshapes stay
exact through every propagation.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.ir.bounds import Bounds, Interval, affine, bounds_of, simplify
from tilewright.ir.expr import Const, Expr, const
from tilewright.ir.ops import Axis, TensorOp


def axis_bounds(axes: Sequence[Axis], symbols: Bounds | None = None) -> dict[str, Interval]:
    """The interval of every axis; extents with symbols count with their upper bound."""
    known = dict(symbols or {})
    return known | {x.name: Interval(0, max(bounds_of(x.extent, known).high - 1, 0)) for x in axes}


def invert(
    axes: Sequence[Axis], index: Sequence[Expr], shape: Sequence[Expr], point: Sequence[Expr], bounds: Bounds
) -> dict[str, Expr] | None:
    """The axis values at which `index` equals `point`, or None when the map is not one-to-one onto `shape`.

    Args:
        axes: the axes that the map ranges over; all of them must be determined.
        index: one expression per dimension, each a sum of axes with strides.
        shape: extents of the dimensions.
        point: one expression per dimension.
        bounds: bounds of whatever the point's expressions use, for simplification.
    """
    extents = {x.name: x.extent for x in axes}
    names = frozenset(extents)
    found: dict[str, Expr] = {}
    for expr, extent, target in zip(index, shape, point, strict=True):
        terms = affine(expr, names)
        if terms is None or terms.pop(None):
            return None
        if any(name in found for name in terms):
            return None
        if not terms:
            if extent != const(1):
                return None
            continue
        if len(terms) == 1:
            ((name, stride),) = terms.items()
            if stride != 1 or extents[str(name)] != extent:
                return None
            found[str(name)] = target
            continue
        expected = 1
        ordered = sorted(terms.items(), key=lambda item: (item[1], extents[str(item[0])] != const(1)))
        for position, (name, stride) in enumerate(ordered):
            size = extents[str(name)]
            if not isinstance(size, Const) or stride != expected:
                return None
            digit = simplify(target // stride, bounds)
            if position + 1 < len(ordered):
                digit = simplify(digit % size, bounds)
            found[str(name)] = digit
            expected *= int(size.value)
        if extent != const(expected):
            return None
    for axis in axes:
        if axis.name not in found:
            if axis.extent != const(1):
                return None
            found[axis.name] = const(0)
    return found


def writes_every_element_once(op: TensorOp) -> bool:
    """Whether each write of the operator is a bijection from its spatial domain onto its value."""
    bounds = axis_bounds(op.axes)
    for write in op.writes:
        if write.base is not None or write.guard is not None or write.update is not None:
            return False
        point = [const(0) for _ in write.index]
        if invert(op.spatial, write.index, write.value.shape, point, bounds) is None:
            return False
    return True
