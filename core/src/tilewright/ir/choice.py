"""Tile choices: how a group is cut into tiles at each memory level, and what that costs. The third form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from tilewright.ir.expr import Expr


@attrs.frozen
class Resources:
    """What one task of a kernel occupies.

    Args:
        tasks: number of tasks (blocks on a GPU, parallel chunks on a CPU).
        threads: threads per task (1 on a CPU).
        registers: 32-bit registers per thread, 0 when unknown.
        shared_bytes: shared memory per task; on a CPU the bytes of its cache-resident panels.
        barriers: named barriers or mbarriers.
        resident_bytes: bytes that stay on chip between tasks of one unit.
    """

    tasks: int
    threads: int = 1
    registers: int = 0
    shared_bytes: int = 0
    barriers: int = 0
    resident_bytes: int = 0


@attrs.frozen
class Packing:
    """A constant operand stored in the order in which a kernel reads it, padded with zeros.

    Element [d0, d1, …] of the packed array is the value that `reads[slot]` has at the axis values `axes` gives in
    terms of the dims; where an axis value lies outside its extent it is zero.

    Args:
        slot: which read of the kernel's specification; of several stages the reads are numbered through.
        dims: (name, extent), outermost first.
        axes: (axis name, expression over the dims), for every axis that the access uses.
    """

    slot: int
    dims: tuple[tuple[str, int], ...]
    axes: tuple[tuple[str, Expr], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(extent for _, extent in self.dims)


@attrs.frozen
class Slice:
    """What each task reads of a constant operand, in one piece: task t the bytes from `first + t * bytes` on.

    Args:
        slot: which read of the kernel's specification, numbered as in `Packing`.
        first: where the piece of task 0 begins, in bytes; a multiple of 16.
        bytes: of a piece; a multiple of 16.
        end: where the last piece ends, which may have fewer; a multiple of 16.
    """

    slot: int
    first: int
    bytes: int
    end: int

    def part(self, task: int) -> tuple[int, int]:
        """The first byte that a task reads, and how many."""
        first = self.first + task * self.bytes
        return first, min(self.bytes, self.end - first)


def _pairs(given: Mapping[str, int] | tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    return tuple(given.items()) if isinstance(given, Mapping) else tuple(given)


@attrs.frozen
class TileChoice:
    """One way to run a group: a recipe and a value for each of its parameters.

    Args:
        recipe: name of the registered recipe.
        params: (parameter, value): tile sizes per axis role and memory level, reduce steps, pipeline stages, split,
            thread roles. Which ones there are, the recipe's match says.
        resources: what a task occupies.
        packings: constant operands that are stored in another layout.
        count: number of tasks by the values of the symbols; None when no extent is symbolic.
        cost: predicted seconds of the whole kernel on the device planned for.
        why: one line for `explain`.
        slices: what its tasks can also read from memory of their unit's own; none of it is of a packed operand.
    """

    recipe: str
    params: tuple[tuple[str, int], ...] = attrs.field(converter=_pairs)
    resources: Resources
    packings: tuple[Packing, ...] = ()
    cost: float = 0.0
    why: str = ""
    count: Expr | None = None
    slices: tuple[Slice, ...] = ()

    def slice_bytes(self, count: int) -> int:
        """Bytes of the first `count` slices of one task."""
        return sum(x.bytes for x in self.slices[:count])

    def __getitem__(self, parameter: str) -> int:
        for name, size in self.params:
            if name == parameter:
                return size
        raise KeyError(f"recipe {self.recipe} has no parameter {parameter!r}: {[n for n, _ in self.params]}")

    def as_dict(self) -> dict[str, Any]:
        return dict(self.params)


def undominated(choices: list[TileChoice]) -> list[TileChoice]:
    """The choices that no other beats in (cost, tasks, threads, registers, shared, resident), cheapest first."""

    def point(choice: TileChoice) -> tuple[float, ...]:
        r = choice.resources
        return (choice.cost, r.tasks, r.threads, r.registers, r.shared_bytes, r.resident_bytes)

    kept: list[tuple[tuple[float, ...], TileChoice]] = []
    for candidate in sorted(choices, key=lambda c: point(c)):
        mine = point(candidate)
        if not any(all(x <= y for x, y in zip(other, mine, strict=True)) for other, _ in kept):
            kept.append((mine, candidate))
    return [choice for _, choice in kept]
