"""Contractions: sums of products of two operands, and the roles of their axes.

Matrix products, batched ones, convolutions and their like are all `sum over k of A(batch, m, k) * B(batch, n, k)`; they
differ only in how an operand's elements are addressed, which an `Operand` keeps as it is.
"""

from __future__ import annotations

import math

import attrs

from tilewright.ir.expr import Apply, Const, Expr, loads, static, variables
from tilewright.ir.ops import Axis
from tilewright.views.kernel import KernelSpec


@attrs.frozen
class Operand:
    """One factor of the product.

    Args:
        expr: its value in terms of loads and axes, in the dtype that it is multiplied in.
        slots: the reads that it needs, in order, those inside other reads' indices included.
        axes: names of the axes that it depends on.
        constant: whether everything that it reads is known at compile time.
    """

    expr: Expr
    slots: tuple[int, ...]
    axes: frozenset[str]
    constant: bool

    @property
    def plain_slot(self) -> int | None:
        """The slot when the operand is one read and nothing else (a cast aside)."""
        return self.slots[0] if len(self.slots) == 1 and not _computes(self.expr) else None


def _computes(expr: Expr) -> bool:
    if isinstance(expr, Apply):
        return expr.op != "cast" or _computes(expr.args[0])
    return isinstance(expr, Const)


@attrs.frozen
class Contraction:
    """The roles of a contraction.

    Args:
        left: the operand that varies with `m`.
        right: the operand that varies with `n`.
        batch: spatial axes of both operands, or of neither.
        m: spatial axes of the left operand alone, in the order of the domain.
        n: spatial axes of the right operand alone.
        k: reduce axes.
    """

    left: Operand
    right: Operand
    batch: tuple[Axis, ...]
    m: tuple[Axis, ...]
    n: tuple[Axis, ...]
    k: tuple[Axis, ...]

    def swapped(self) -> Contraction:
        """The same contraction with left and right exchanged."""
        return Contraction(self.right, self.left, self.batch, self.n, self.m, self.k)


def points(axes: tuple[Axis, ...]) -> int:
    """Number of points of static axes."""
    return math.prod(static(x.extent) for x in axes)


def contraction_of(spec: KernelSpec) -> Contraction | None:
    """The roles of a kernel whose reduction is a sum of products of two independent operands, or None."""
    if spec.combiner is None or spec.combiner.name != "sum" or len(spec.body) != 1:
        return None
    body = spec.body[0]
    if not isinstance(body, Apply) or body.op != "mul":
        return None
    operands = [_operand(spec, factor) for factor in body.args]
    left, right = operands
    if not left.slots or not right.slots or (left == right and len(left.slots) == 1):
        return None
    spatial = spec.spatial
    both = tuple(x for x in spatial if (x.name in left.axes) == (x.name in right.axes))
    return Contraction(
        left,
        right,
        batch=both,
        m=tuple(x for x in spatial if x.name in left.axes and x.name not in right.axes),
        n=tuple(x for x in spatial if x.name in right.axes and x.name not in left.axes),
        k=spec.reduce,
    )


def _operand(spec: KernelSpec, expr: Expr) -> Operand:
    needed = set(loads(expr))
    for slot in range(len(spec.reads) - 1, -1, -1):
        if slot in needed:
            needed |= loads(*spec.reads[slot].index, spec.reads[slot].guard)
    slots = tuple(sorted(needed))
    used = set(variables(expr))
    for slot in slots:
        used |= variables(*spec.reads[slot].index, spec.reads[slot].guard)
    constant = all(spec.reads[slot].value.name in spec.constants for slot in slots)
    return Operand(expr, slots, frozenset(used & {x.name for x in spec.axes}), constant)
