"""Walks over launches and host trees that several laws need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from tilewright.ir.program import (
    BlockControl,
    GridControl,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    HostStep,
    Item,
    Kernel,
    Launch,
    Phase,
    Signal,
    Task,
    Wait,
)

Part = Phase | GridControl


def leaves(parts: Iterable[Part]) -> Iterator[Task | Signal | Wait]:
    """Everything that the units do, in the order of the text."""
    for part in parts:
        if isinstance(part, Phase):
            for lane in part.lanes:
                yield from item_leaves(lane.items)
        else:
            yield from leaves((*part.body, *part.orelse))


def item_leaves(items: Iterable[Item]) -> Iterator[Task | Signal | Wait]:
    """Everything in a unit's list, without the control around it."""
    for item in items:
        if isinstance(item, BlockControl):
            yield from item_leaves((*item.body, *item.orelse))
        else:
            yield item


def tasks_of(parts: Iterable[Part]) -> Iterator[Task]:
    """The tasks among `leaves`."""
    return (x for x in leaves(parts) if isinstance(x, Task))


def conditions_of(parts: Iterable[Part]) -> Iterator[str]:
    """Names of the scalar values that the control of a launch reads."""

    def of_items(items: Iterable[Item]) -> Iterator[str]:
        for item in items:
            if isinstance(item, BlockControl):
                yield from (item.condition,) * bool(item.condition)
                yield from of_items((*item.body, *item.orelse))

    for part in parts:
        if isinstance(part, Phase):
            for lane in part.lanes:
                yield from of_items(lane.items)
        else:
            yield from (part.condition,) * bool(part.condition)
            yield from conditions_of((*part.body, *part.orelse))


def first_phases(parts: Sequence[Part]) -> list[Phase]:
    """The phases that may come first."""
    found: list[Phase] = []
    for part in parts:
        if isinstance(part, Phase):
            return [*found, part]
        found += first_phases(part.body) + first_phases(part.orelse)
    return found


@attrs.frozen
class Touch:
    """A value is read or written at a host step, inside the steps of the enclosing loops (outermost first)."""

    value: str
    step: int
    write: bool
    loops: tuple[tuple[int, int], ...]


def touches(steps: Sequence[HostStep], kernels: Mapping[str, Kernel]) -> list[Touch]:
    """Every touch in the order of the text, with the numbers that `Placement` counts steps by."""
    return _touches(steps, kernels, 0, ())[1]


def _touches(
    steps: Sequence[HostStep], kernels: Mapping[str, Kernel], number: int, loops: tuple[tuple[int, int], ...]
) -> tuple[int, list[Touch]]:
    found: list[Touch] = []
    for step in steps:
        match step:
            case Launch():
                found += [Touch(name, number, False, loops) for name in conditions_of(step.body)]
                for task in tasks_of(step.body):
                    reads = len(task.args) - len(kernels[task.kernel].group.outputs)
                    found += [Touch(name, number, i >= reads, loops) for i, name in enumerate(task.args)]
                number += 1
            case HostCopy():
                found += [Touch(step.source, number, False, loops), Touch(step.target, number, True, loops)]
                number += 1
            case HostSet():
                found.append(Touch(step.target, number, True, loops))
                number += 1
            case HostLoop():
                if step.limit:
                    found.append(Touch(step.limit, number, False, loops))
                end, _ = _touches(step.body, kernels, number + 1, ())
                inside = (*loops, (number, end))
                if step.condition:
                    found.append(Touch(step.condition, number, False, inside))
                found += _touches(step.body, kernels, number + 1, inside)[1]
                number = end + 1
            case HostIf():
                found.append(Touch(step.condition, number, False, loops))
                middle, then = _touches(step.then, kernels, number + 1, loops)
                end, orelse = _touches(step.orelse, kernels, middle, loops)
                found += then + orelse
                number = end + 1
    return number, found
