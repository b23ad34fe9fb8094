"""Small element-wise kernels (masks of positions, rows of a table) that are computed again wherever they are read.

A kernel of its own costs its start, and inside a launch a barrier, however little it computes. Where what reads it is
element-wise too, each of that one's points can compute the element that it needs from the kernel's operands instead.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence

import attrs

from tilewright.ir import dtypes
from tilewright.ir.bounds import bounds_of
from tilewright.ir.expr import Apply, walk
from tilewright.ir.ops import Op, Region, TensorOp, Value
from tilewright.planning.session import Session
from tilewright.rewrites.movement import held_outside, read_through, users_of
from tilewright.views.kernel import is_elementwise
from tilewright.views.layout import part_offset

_LIGHT = frozenset(
    [
        *("add", "sub", "mul", "neg", "abs", "min", "max", "select", "cast", "bitcast"),
        *("eq", "ne", "lt", "le", "and", "or", "xor", "not", "bitand", "bitor", "bitxor", "bitnot"),
    ]
)
"""Operators that cost no more than a load."""


def computed_again(
    region: Region, kernels: Iterable[Sequence[int]], session: Session, most: int
) -> tuple[Region, tuple[str, ...]]:
    """The region (without its nested ones) with small kernels computed by their readers, and names of their operators.

    Args:
        kernels: operators that would be a kernel each, by their positions in the region.
        most: reads that an operator may come to have.
    """
    ops: list[Op] = list(region.ops)
    users, outside = users_of(ops), held_outside(region)
    dropped: set[int] = set()
    for members in kernels:
        if not all(_is_light(ops[i]) and part_offset(ops[i], session.inputs) is None for i in members):
            continue
        rewritten = _readers(ops, members, users, outside)
        if rewritten is None or not all(len(x.reads) <= most for x in rewritten.values()):
            continue
        if _seconds(ops, rewritten, session) > session.device.launch_seconds:
            continue
        for i, reader in rewritten.items():
            ops[i] = reader
            for value in reader.inputs:
                if i not in users.setdefault(value, []):
                    users[value].append(i)
        dropped.update(members)
    left = tuple(op for i, op in enumerate(ops) if i not in dropped)
    return attrs.evolve(region, ops=left), tuple(ops[i].name for i in sorted(dropped))


def _is_light(op: Op) -> bool:
    """Whether an operator is element-wise and computes next to nothing."""
    if not isinstance(op, TensorOp) or not is_elementwise(op) or any(w.guard is not None for w in op.writes):
        return False
    return all(x.op in _LIGHT for expr in op.body for x in walk(expr) if isinstance(x, Apply))


def _readers(
    ops: Sequence[Op], members: Sequence[int], users: Mapping[Value, Sequence[int]], outside: Container[Value]
) -> dict[int, TensorOp] | None:
    """What reads a kernel, by position, as it is when it computes the kernel's values itself; None where one cannot."""
    rewritten: dict[int, TensorOp] = {}
    for i in reversed(members):
        made = ops[i]
        assert isinstance(made, TensorOp)
        for value in made.outputs:
            if value in outside:
                return None
            for user in {*users.get(value, ()), *rewritten}:
                if user in members:
                    continue
                reader = rewritten.get(user, ops[user])
                if not isinstance(reader, TensorOp) or not is_elementwise(reader):
                    return None
                if value not in reader.inputs:
                    continue
                through = read_through(reader, value, made)
                if through is None:
                    return None
                rewritten[user] = through
    return rewritten or None


def _seconds(ops: Sequence[Op], rewritten: Mapping[int, TensorOp], session: Session) -> float:
    """What readers read and compute more than before."""
    device, bounds = session.device, {x.name: x.interval for x in session.symbols}
    total = 0.0
    for i, reader in rewritten.items():
        points = math.prod(bounds_of(x.extent, bounds).high for x in reader.axes)
        before = ops[i]
        assert isinstance(before, TensorOp)
        each = (_bytes(reader) - _bytes(before)) / device.levels[0].bandwidth
        each += (_operations(reader) - _operations(before)) / device.peak["fma"]
        total += points * each
    return total


def _bytes(op: TensorOp) -> int:
    return sum(dtypes.size_of(x.value.dtype) for x in op.reads)


def _operations(op: TensorOp) -> int:
    return sum(isinstance(x, Apply) for expr in op.body for x in walk(expr))
