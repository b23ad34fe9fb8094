"""Where a task of a contraction works: its batch, its block of either side."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from tilewright.ir.expr import Expr, ceil_div, const, minimum, number_of
from tilewright_backends.emit.cpu.function import CpuFunction
from tilewright_backends.emit.cpu.panel import Block
from tilewright_backends.lower.flat import split_number
from tilewright_backends.recipes.cpu.roles import FedContraction


@attrs.frozen
class Position:
    """A task's points.

    Args:
        batch: its number in the batch.
        batch_at: the values of the batch axes.
        block: of the blocked side.
        blocked_start, blocked_here: the first point of the blocked side, and how many there are.
        other_start, other_here: those of the other side.
    """

    batch: Expr
    batch_at: dict[str, Expr]
    block: Block
    blocked_start: Expr
    blocked_here: Expr
    other_start: Expr
    other_here: Expr


def position_of(function: CpuFunction, found: FedContraction, choice: Mapping[str, int]) -> Position:
    """Task number -> batch, block of the other side, block of the blocked side."""
    code, blocked, other = function.code, found.blocked, found.other
    outer, inner, other_block = choice["block.outer"], choice["block.inner"], choice["other.block"]
    counts = (
        number_of(found.batch_counts),
        ceil_div(other.count, other_block),
        ceil_div(blocked.outer_count, outer),
        ceil_div(blocked.last_count, inner),
    )
    batch, other_number, *numbers = (code.once(x) for x in split_number(function.task, counts))
    digits = split_number(batch, found.batch_counts)
    first_outer, first_inner = numbers[0] * outer, numbers[1] * inner
    width = code.simplify(minimum(blocked.last_count - first_inner, const(inner)))
    other_start = code.simplify(other_number * other_block)
    return Position(
        batch,
        {n: code.once(x) for n, x in zip(found.batch, digits, strict=True)},
        Block(code.simplify(first_outer), code.simplify(first_inner), outer, inner, width),
        code.simplify(first_outer * blocked.last_count + first_inner),
        code.simplify(width * outer),
        other_start,
        code.simplify(minimum(other.count - other_start, const(other_block))),
    )
