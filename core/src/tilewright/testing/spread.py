"""A few of many kernels for a check: of different kinds first, and within a kind spread evenly."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from tilewright.ir.group import Group

T = TypeVar("T")


def spread(items: Sequence[T], most: int, kind: Callable[[T], Hashable]) -> list[T]:
    """At most so many of the items, in their order: one of each kind before a second of any.

    Where there are more kinds than places for one more of each, those that get one are spread evenly over the kinds.
    """
    kinds: dict[Hashable, list[int]] = {}
    for i, item in enumerate(items):
        kinds.setdefault(kind(item), []).append(i)
    shares = dict.fromkeys(kinds, 0)
    left = min(most, len(items))
    while left:
        more = _evenly([x for x in kinds if shares[x] < len(kinds[x])], left)
        left -= len(more)
        shares |= {x: shares[x] + 1 for x in more}
    return [items[i] for i in sorted(i for x, own in kinds.items() for i in _evenly(own, shares[x]))]


def _evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many items with like distances."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def kind_of(group: Group) -> Hashable:
    """What kernels that exercise a recipe alike have in common: ONNX's operators in them, and what they store."""
    operators = {op.loc.op_type for op in group.ops}
    return frozenset(operators), tuple(v.dtype for v in group.outputs)
