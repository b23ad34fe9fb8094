"""Law: the writes of an operator define every element of their value exactly once.

A write's index is a sum of digits of axes with strides (mixed radix): each dimension's strides must be the running
products of its digits' sizes, and every axis must be used up by its digits. What is not of this form is counted point
by point when the domain is small, and refused otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from tilewright.interpret.evaluate import evaluate
from tilewright.ir.bounds import Bounds, linear_terms
from tilewright.ir.expr import Apply, Const, Expr, Var, const, loads, variables
from tilewright.ir.ops import Axis, Write
from tilewright.ir.verify.laws import Place, show
from tilewright.ir.verify.ranges import Ranges, conjuncts, facts, linear_form

LAW = "without a base, the writes cover their value exactly once"
_COUNTED = 1 << 20


@attrs.frozen
class _Digit:
    """`stride · ((axis // low) % size)`; `size` None means up to the end of the axis."""

    axis: str
    stride: Expr
    low: int
    size: int | None


def check_coverage(write: Write, axes: Sequence[Axis], symbols: Bounds, place: Place) -> None:
    """Refuses a write whose points, where its guard holds, do not hit each element once.

    Args:
        axes: the axes that the write ranges over.
    """
    problem = _radix_problem(write, axes, symbols)
    if not problem:
        return
    if loads(*write.index, write.guard):
        raise place.broken(LAW, "the index depends on data and there is no base")
    counted = _count(write, axes)
    if counted is None:
        raise place.broken(LAW, f"cannot prove it: {problem}")
    if counted:
        raise place.broken(LAW, counted)


def _radix_problem(write: Write, axes: Sequence[Axis], symbols: Bounds) -> str:
    """Why the index is not one-to-one onto the value, or "" when it provably is."""
    extents = {x.name: x.extent for x in axes}
    digits: dict[str, list[_Digit]] = {name: [] for name, extent in extents.items() if extent != const(1)}
    conditions = conjuncts(write.guard)
    for number, (expr, extent) in enumerate(zip(write.index, write.value.shape, strict=True)):
        found = _digits(expr, extents)
        if found is None:
            return f"dimension {number}: {show(expr)} is not a sum of digits of axes"
        total: Expr = const(1)
        while found:
            at = next((x for x in found if _equal(x.stride, total)), None)
            if at is None:
                return f"dimension {number}: no stride of {show(expr)} is {show(total)}"
            found.remove(at)
            digits[at.axis].append(at)
            total = total * _size(at, extents[at.axis])
        if not _equal(total, extent):
            limits = [x for x in conditions if _is_limit(x, expr, extent)]
            if not limits or not Ranges((), symbols).never_negative(total - extent):
                return f"dimension {number}: {show(total)} positions for the extent {show(extent)}"
            conditions = [x for x in conditions if x not in limits]
    for name, parts in digits.items():
        problem = _unused(name, extents[name], parts)
        if problem:
            return problem
    return f"the guard {show(write.guard)} leaves points out" if conditions else ""


def _equal(a: Expr, b: Expr) -> bool:
    return not linear_terms(a - b)


def _is_limit(condition: Expr, expr: Expr, extent: Expr) -> bool:
    """Whether a condition says `expr < extent` and no more."""
    return [linear_form(x) for x in facts(condition)] == [linear_form(extent - 1 - expr)]


def _size(digit: _Digit, extent: Expr) -> Expr:
    if digit.size is not None:
        return const(digit.size)
    return extent if digit.low == 1 else extent // digit.low


def _digits(expr: Expr, extents: Mapping[str, Expr]) -> list[_Digit] | None:
    """The digits that an index is a sum of, without those of axes of one point; None when it is none."""
    found: list[_Digit] = []
    for factor, term in linear_terms(expr):
        digit = _digit(term, extents)
        if digit is None:
            return None
        if extents[digit.axis] != const(1):
            found.append(attrs.evolve(digit, stride=digit.stride * factor))
    return found


def _digit(term: Expr, extents: Mapping[str, Expr]) -> _Digit | None:
    match term:
        case Var(name=name) if name in extents:
            return _Digit(name, const(1), 1, None)
        case Apply(op="mul", args=(left, right)):
            for part, stride in ((left, right), (right, left)):
                inner = _digit(part, extents)
                if inner is not None and not variables(stride) & extents.keys():
                    return attrs.evolve(inner, stride=inner.stride * stride)
        case Apply(op="floordiv", args=(Var(name=name), Const(value=int(low)))) if name in extents:
            return _Digit(name, const(1), low, None)
        case Apply(op="floormod", args=(part, Const(value=int(size)))):
            inner = _digit(part, extents)
            if inner is not None and inner.size is None and inner.stride == const(1):
                return attrs.evolve(inner, size=size)
    return None


def _unused(name: str, extent: Expr, parts: list[_Digit]) -> str:
    """What keeps the digits of an axis, lowest first, from following each other up to its extent."""
    if not parts:
        return f"axis {name} does not occur in the index"
    if parts == [_Digit(name, parts[0].stride, 1, None)]:
        return ""
    low = 1
    for digit in sorted(parts, key=lambda x: x.low):
        if digit.low != low:
            return f"the digits of axis {name} overlap or leave a gap at {low}"
        top = int(extent.value) // low if isinstance(extent, Const) else 0
        low *= digit.size if digit.size is not None else top
    if not isinstance(extent, Const) or low != extent.value:
        return f"the digits of axis {name} make {low} of its {show(extent)} points"
    return ""


def _count(write: Write, axes: Sequence[Axis]) -> str | None:
    """What is wrong with the write, found by counting its points; None when they cannot be counted."""
    shape = [x.value for x in write.value.shape if isinstance(x, Const)]
    extents = [int(x.extent.value) for x in axes if isinstance(x.extent, Const)]
    if len(shape) < len(write.value.shape) or len(extents) < len(axes) or np.prod(extents, dtype=object) > _COUNTED:
        return None
    sizes = [int(x) for x in shape]
    grid = {x.name: g for x, g in zip(axes, np.indices(extents, sparse=True), strict=True)}
    flat = np.zeros(extents, np.int64)
    good = np.ones(extents, np.bool_)
    for expr, size in zip(write.index, sizes, strict=True):
        part = evaluate(expr, grid)
        good = good & (part >= 0) & (part < size)
        flat = flat * size + part
    inside = np.broadcast_to(evaluate(write.guard, grid) if write.guard is not None else True, flat.shape)
    if not good[inside].all():
        return "some point lies outside of the value"
    hits = np.bincount(flat[inside], minlength=int(np.prod(sizes)))
    wrong = np.flatnonzero(hits != 1)
    if not wrong.size:
        return ""
    where = [int(x) for x in np.unravel_index(int(wrong[0]), sizes)]
    return f"element {where} is written {int(hits[wrong[0]])} times"
