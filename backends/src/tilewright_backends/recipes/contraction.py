"""Contractions: kernels `sum over k of rows(batch, m, k) * columns(batch, n, k)`, and the roles that their axes play.

Matrix products, batched ones and convolutions differ only in how an operand's elements are addressed.
"""

from __future__ import annotations

import attrs

from tilewright.ir.expr import Apply, Expr, Load, Var, loads, variables
from tilewright.ir.ops import Axis, Combiner
from tilewright_backends.lower.flat import FlatSpec


@attrs.frozen
class Operand:
    """One factor of the product.

    Args:
        value: in terms of the reads.
        slots: reads that it uses, those that only an index uses included; ascending.
        axes: names of the axes that it varies with.
        outer: spatial axes that it varies with and the other factor does not.
    """

    value: Expr
    slots: tuple[int, ...]
    axes: frozenset[str]
    outer: tuple[Axis, ...]

    def constant_slot(self, spec: FlatSpec, constants: frozenset[str]) -> int | None:
        """The slot when the operand is a plain read of a constant that varies with its own axes and k only."""
        slot = plain_slot(self.value)
        if slot is None or spec.reads[slot].value.name not in constants or self.slots != (slot,):
            return None
        own = {x.name for x in self.outer} | {x.name for x in spec.reduce}
        return slot if self.axes <= own else None


@attrs.frozen
class Contraction:
    """A kernel as a batched matrix product of two computed operands.

    Args:
        rows: the operand that varies with the rows `m` of the result.
        columns: the operand that varies with its columns `n`.
        k: axes summed over, outermost first.
        batch: spatial axes that both operands vary with, or neither.
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

    def swapped(self) -> Contraction:
        """The transposed product."""
        return attrs.evolve(self, rows=self.columns, columns=self.rows)


def contraction_of(spec: FlatSpec) -> Contraction | None:
    """The roles of a kernel's axes, its first factor as rows.

    None when it is not a sum of products of two operands, or scatters.
    """
    if not is_sum(spec.combiner) or spec.scatters:
        return None
    body = spec.body[0]
    if not isinstance(body, Apply) or body.op != "mul" or not all(loads(x) for x in body.args):
        return None
    slots = [_closure(spec, loads(x)) for x in body.args]
    axes = [_axes(spec, x, used) for x, used in zip(body.args, slots, strict=True)]
    outer = [tuple(x for x in spec.spatial if x.name in axes[i] - axes[1 - i]) for i in (0, 1)]
    operands = [Operand(*x) for x in zip(body.args, slots, axes, outer, strict=True)]
    batch = tuple(x for x in spec.spatial if (x.name in axes[0]) == (x.name in axes[1]))
    return Contraction(operands[0], operands[1], spec.reduce, batch, body.dtype)


def is_sum(combiner: Combiner | None) -> bool:
    """Whether the combiner adds one state up."""
    if combiner is None or len(combiner.combine) != 1 or combiner.identity[0].value != 0:
        return False
    merged = combiner.combine[0]
    return (
        isinstance(merged, Apply)
        and merged.op == "add"
        and all(isinstance(x, Var) for x in merged.args)
        and merged.args[0] != merged.args[1]
    )


def plain_slot(value: Expr) -> int | None:
    """The slot when an operand is a read, possibly widened; otherwise None."""
    if isinstance(value, Apply) and value.op == "cast":
        value = value.args[0]
    return value.slot if isinstance(value, Load) else None


def _closure(spec: FlatSpec, slots: frozenset[int]) -> tuple[int, ...]:
    """The slots and those that their addresses and guards load from, ascending."""
    found: set[int] = set()
    todo = set(slots)
    while todo:
        slot = todo.pop()
        found.add(slot)
        todo |= loads(spec.reads[slot].address, spec.reads[slot].guard) - found
    return tuple(sorted(found))


def _axes(spec: FlatSpec, expr: Expr, slots: tuple[int, ...]) -> frozenset[str]:
    """Names of the axes that the value of `expr`, which uses `slots`, varies with."""
    names = set(variables(expr))
    for slot in slots:
        names |= variables(spec.reads[slot].address, spec.reads[slot].guard)
    return frozenset(names)
