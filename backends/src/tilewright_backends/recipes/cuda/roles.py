"""Contractions: a kernel `sum over k of a(b, m, k) * c(b, n, k)` and the roles that its axes play."""

from __future__ import annotations

import attrs

from tilewright.ir.expr import Apply, Const, Expr, Load, loads, variables
from tilewright.ir.ops import Axis
from tilewright_backends.lower.flat import FlatSpec, coefficient


@attrs.frozen
class Operand:
    """One factor of a contraction.

    Args:
        value: in terms of the reads.
        slots: reads that it uses, those that only an index uses included.
        outer: its own spatial axes (rows for the first operand, columns for the second).
    """

    value: Expr
    slots: tuple[int, ...]
    outer: tuple[Axis, ...]

    def constant_slot(self, spec: FlatSpec, constants: frozenset[str]) -> int | None:
        """The slot when the operand is a plain read of a constant that varies with its own axes and k only."""
        slot = plain_slot(self.value)
        if slot is None or spec.reads[slot].value.name not in constants or self.slots != (slot,):
            return None
        own = {x.name for x in self.outer} | {x.name for x in spec.reduce}
        return slot if used_axes(spec, self.value) <= own else None


@attrs.frozen
class Contraction:
    """A kernel as a batched matrix product of two computed operands.

    Args:
        rows: the operand that varies with the rows `m` of the result.
        columns: the operand that varies with its columns `n`; the innermost one runs along the result's memory.
        k: axes summed over, outermost first.
        batch: axes that both operands vary with.
        state: dtype of the sum.
    """

    rows: Operand
    columns: Operand
    k: tuple[Axis, ...]
    batch: tuple[Axis, ...]
    state: str

    @property
    def m(self) -> tuple[Axis, ...]:
        return self.rows.outer

    @property
    def n(self) -> tuple[Axis, ...]:
        return self.columns.outer


def points(axes: tuple[Axis, ...]) -> int:
    """Number of points of fused axes with literal extents."""
    total = 1
    for axis in axes:
        if not isinstance(axis.extent, Const):
            raise TypeError(f"axis {axis.name} has no literal extent: {axis.extent!r}")
        total *= int(axis.extent.value)
    return total


def closure(spec: FlatSpec, slots: frozenset[int]) -> tuple[int, ...]:
    """The slots and those that their addresses and guards load from, ascending."""
    found = set(slots)
    for slot in slots:
        access = spec.reads[slot]
        found |= set(closure(spec, loads(access.address, access.guard)))
    return tuple(sorted(found))


def used_axes(spec: FlatSpec, expr: Expr) -> frozenset[str]:
    """Names of the axes that the value of `expr` varies with."""
    names = set(variables(expr))
    for slot in closure(spec, loads(expr)):
        names |= variables(spec.reads[slot].address, spec.reads[slot].guard)
    return frozenset(names)


def contraction_of(spec: FlatSpec) -> Contraction | None:
    """The roles of a kernel's axes, or None when it is not a sum of products of two operands."""
    combiner = spec.combiner
    if combiner is None or combiner.name != "sum" or len(spec.body) != 1:
        return None
    if not all(isinstance(x.extent, Const) for x in spec.axes):
        return None
    if any(s.base is not None or s.update is not None for s in spec.stores):
        return None
    body = spec.body[0]
    if not isinstance(body, Apply) or body.op != "mul" or not all(loads(x) for x in body.args):
        return None
    first, second = body.args
    of_first, of_second = used_axes(spec, first), used_axes(spec, second)
    if any(x.name not in of_first | of_second for x in spec.spatial):
        return None
    both = tuple(x for x in spec.spatial if x.name in of_first & of_second)
    only_first = tuple(x for x in spec.spatial if x not in both and x.name in of_first)
    only_second = tuple(x for x in spec.spatial if x not in both and x.name in of_second)
    # Columns run along the memory of the result, so that its stores are contiguous.
    along = next((x for x in reversed(spec.spatial) if x not in both), None)
    operands = [
        Operand(first, closure(spec, loads(first)), only_first),
        Operand(second, closure(spec, loads(second)), only_second),
    ]
    if along in only_first:
        operands.reverse()
    return Contraction(operands[0], operands[1], spec.reduce, both, body.dtype)


def plain_slot(value: Expr) -> int | None:
    """The slot when an operand is a read, possibly widened; otherwise None."""
    if isinstance(value, Apply) and value.op == "cast":
        value = value.args[0]
    return value.slot if isinstance(value, Load) else None


def stride(spec: FlatSpec, slot: int, axis: Axis | None) -> int | None:
    """Elements between neighbours along `axis` in a read; None when the address is not linear in it."""
    return None if axis is None else coefficient(spec.reads[slot].address, axis.name)
