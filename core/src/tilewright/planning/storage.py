"""Storage: a place for every value over its lifetime. The core owns allocation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from tilewright.ir import dtypes
from tilewright.ir.expr import static
from tilewright.ir.ops import Value
from tilewright.ir.program import (
    Buffer,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    HostStep,
    Launch,
    Placement,
    Storage,
)
from tilewright.ir.verify.tree import conditions_of, tasks_of

ALIGNMENT = 256
"""Bytes that every placement starts at a multiple of: a GPU's allocation granularity, four cache lines of a CPU."""

WORKSPACE = "workspace"


def byte_size(value: Value) -> int:
    """Bytes of a value of static shape."""
    return static(value.num_elements(), f"size of {value.name}") * dtypes.size_of(value.dtype)


@attrs.define
class _Life:
    """A value's lifetime while it is being found."""

    first: int
    last: int


def allocate(
    steps: Sequence[HostStep],
    values: Mapping[str, Value],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    weights: Iterable[Value],
) -> Storage:
    """Places inputs, outputs and weights in buffers of their own, and everything else in one workspace.

    Args:
        steps: the host tree.
        values: every value that a task or a copy names.
    """
    buffers: dict[str, Buffer] = {}
    placements: dict[str, Placement] = {}
    lives = lifetimes(steps)
    end = max((x.last for x in lives.values()), default=0)
    for kind, group in (("input", inputs), ("output", outputs), ("weight", weights)):
        for value in group:
            size = byte_size(value)
            buffers[value.name] = Buffer(value.name, kind, size)  # type: ignore[arg-type]
            placements[value.name] = Placement(value, value.name, 0, size, 0, end)
    temporary = [
        (values[name], life) for name, life in lives.items() if name not in placements
    ]
    offsets, total = pack_by_lifetime([(byte_size(v), life.first, life.last) for v, life in temporary])
    buffers[WORKSPACE] = Buffer(WORKSPACE, "workspace", total)
    for (value, life), offset in zip(temporary, offsets, strict=True):
        placements[value.name] = Placement(value, WORKSPACE, offset, byte_size(value), life.first, life.last)
    return Storage(buffers, placements)


def lifetimes(steps: Sequence[HostStep]) -> dict[str, _Life]:
    """First and last host step at which each value is touched. What a loop touches lives as long as the loop."""
    lives: dict[str, _Life] = {}

    def touch(names: Iterable[str], first: int, last: int) -> None:
        for name in names:
            life = lives.setdefault(name, _Life(first, last))
            life.first, life.last = min(life.first, first), max(life.last, last)

    def visit(sequence: Sequence[HostStep], number: int) -> int:
        for step in sequence:
            start = number
            match step:
                case Launch():
                    touch(touched(step), number, number)
                    number += 1
                case HostCopy():
                    touch((step.source, step.target), number, number)
                    number += 1
                case HostSet():
                    touch((step.target,), number, number)
                    number += 1
                case HostLoop():
                    touch((step.limit,) * bool(step.limit), start, start)
                    number = visit(step.body, number + 1) + 1
                    touch(_inside((step,)), start, number - 1)
                case HostIf():
                    touch((step.condition,), start, start)
                    number = visit(step.orelse, visit(step.then, number + 1)) + 1
        return number

    visit(steps, 0)
    return lives


def _inside(steps: Sequence[HostStep]) -> Iterator[str]:
    for step in steps:
        match step:
            case Launch():
                yield from touched(step)
            case HostCopy():
                yield from (step.source, step.target)
            case HostSet():
                yield step.target
            case HostLoop():
                yield from (step.condition,) * bool(step.condition)
                yield from (step.limit,) * bool(step.limit)
                yield from _inside(step.body)
            case HostIf():
                yield step.condition
                yield from _inside((*step.then, *step.orelse))


def touched(launch: Launch) -> Iterator[str]:
    """Names of the values that a launch reads or writes, those that its control depends on included."""
    yield from conditions_of(launch.body)
    for task in tasks_of(launch.body):
        yield from task.args


def pack_by_lifetime(items: Sequence[tuple[int, int, int]]) -> tuple[list[int], int]:
    """Offsets for (bytes, first, last) items such that those alive together do not overlap, and the total size.

    Largest first, each at the lowest offset that is free during its life (the usual greedy, close to the lower bound on
    real models).
    """
    offsets = [0] * len(items)
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    total = 0
    for i in sorted(range(len(items)), key=lambda i: (-items[i][0], items[i][1], i)):
        size, first, last = items[i]
        size = -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
        offset = 0
        for start, stop in sorted((o, e) for o, e, born, died in placed if born <= last and first <= died):
            if offset + size <= start:
                break
            offset = max(offset, stop)
        offsets[i] = offset
        placed.append((offset, offset + size, first, last))
        total = max(total, offset + size)
    return offsets, total
