"""Walks over launches and host trees that several laws need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from tilewright.ir.program import (
    BlockControl,
    Copy,
    Fetch,
    GridControl,
    HostCall,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    HostStep,
    Item,
    Kernel,
    Launch,
    Phase,
    Program,
    Set,
    Signal,
    Task,
    Wait,
    next_number,
    spans,
)

Part = Phase | GridControl
Work = Task | Copy | Set
"""What reads or writes values on a unit."""
Leaf = Work | Fetch | Signal | Wait
"""What a unit does, without control."""


def leaves(parts: Iterable[Part]) -> Iterator[Leaf]:
    """Everything that the units do, in the order of the text."""
    for part in parts:
        if isinstance(part, Phase):
            for lane in part.lanes:
                yield from item_leaves(lane.items)
        else:
            yield from leaves((*part.body, *part.orelse))


def item_leaves(items: Iterable[Item]) -> Iterator[Leaf]:
    """Everything in a unit's list, without the control around it."""
    for item in items:
        if isinstance(item, BlockControl):
            yield from item_leaves((*item.body, *item.orelse))
        else:
            yield item


def tasks_of(parts: Iterable[Part]) -> Iterator[Task]:
    """The tasks among `leaves`."""
    return (x for x in leaves(parts) if isinstance(x, Task))


def work_of(parts: Iterable[Part]) -> Iterator[Work]:
    """What reads or writes values among `leaves`."""
    return (x for x in leaves(parts) if isinstance(x, Work))


def operands(work: Work, kernels: Mapping[str, Kernel]) -> Iterator[tuple[str, bool]]:
    """The values that some work touches, in order, and whether it writes them."""
    match work:
        case Task():
            reads = len(work.args) - len(kernels[work.kernel].group.outputs)
            yield from ((name, i >= reads) for i, name in enumerate(work.args))
        case Copy():
            yield from ((work.source, False), (work.target, True))
        case Set():
            yield work.target, True


def decides(control: GridControl | BlockControl) -> tuple[str, ...]:
    """Names of the scalar values that a loop or branch reads."""
    return tuple(x for x in (control.condition, control.limit) if x)


def controls_of(parts: Iterable[Part]) -> Iterator[GridControl | BlockControl]:
    """The loops and branches of a launch, outer ones first."""

    def of_items(items: Iterable[Item]) -> Iterator[BlockControl]:
        for item in items:
            if isinstance(item, BlockControl):
                yield item
                yield from of_items((*item.body, *item.orelse))

    for part in parts:
        if isinstance(part, Phase):
            for lane in part.lanes:
                yield from of_items(lane.items)
        else:
            yield part
            yield from controls_of((*part.body, *part.orelse))


def conditions_of(parts: Iterable[Part]) -> Iterator[str]:
    """Names of the scalar values that the control of a launch reads."""
    return (name for control in controls_of(parts) for name in decides(control))


def first_phases(parts: Sequence[Part]) -> list[Phase]:
    """The phases that may come first."""
    return _first(parts)[0]


def _first(parts: Sequence[Part]) -> tuple[list[Phase], bool]:
    """The phases that may come first, and whether there may be none."""
    found: list[Phase] = []
    for part in parts:
        if isinstance(part, Phase):
            return [*found, part], False
        (body, none), (orelse, no_other) = _first(part.body), _first(part.orelse)
        found += [*body, *orelse]
        if not part.counter and not none and not no_other:
            return found, False
    return found, True


@attrs.frozen
class Touch:
    """A value is read or written at a host step, inside the steps of the enclosing loops (outermost first).

    Args:
        procedure: whose step it is, "" for the host tree.
    """

    value: str
    step: int
    write: bool
    loops: tuple[tuple[int, int], ...]
    procedure: str = ""


def touches(program: Program) -> list[Touch]:
    """Every touch in the order of the text, with the numbers that `Placement` counts steps by."""
    found = list(_touches(program.body, program.kernels, 0, ()))
    for name, (first, last) in spans(program.body, program.procedures.values()).items():
        procedure = program.procedures[name]
        inside = [Touch(x, first, True, ()) for x in procedure.params]
        inside += _touches(procedure.body, program.kernels, first + 1, ())
        inside += [Touch(x, last, False, ()) for x in procedure.results]
        found += [attrs.evolve(x, procedure=name) for x in inside]
    return found


@attrs.frozen
class CallSite:
    """A call at a host step of a procedure, or of the host tree ("")."""

    call: HostCall
    step: int
    procedure: str


def call_sites(program: Program) -> list[CallSite]:
    """Every call in the order of the text, with the numbers that `Placement` counts steps by."""
    where = spans(program.body, program.procedures.values())
    found = [CallSite(call, step, "") for step, call in numbered_calls(program.body)]
    for name, procedure in program.procedures.items():
        found += [CallSite(call, step, name) for step, call in numbered_calls(procedure.body, where[name][0] + 1)]
    return found


def numbered_calls(steps: Sequence[HostStep], number: int = 0) -> Iterator[tuple[int, HostCall]]:
    """The calls among some steps, of which the first has a number, and inside them."""
    for step in steps:
        match step:
            case HostCall():
                yield number, step
            case HostLoop():
                yield from numbered_calls(step.body, number + 1)
            case HostIf():
                yield from numbered_calls(step.then, number + 1)
                yield from numbered_calls(step.orelse, next_number(step.then, number + 1))
        number = next_number((step,), number)


def _touches(
    steps: Sequence[HostStep], kernels: Mapping[str, Kernel], number: int, loops: tuple[tuple[int, int], ...]
) -> Iterator[Touch]:
    for step in steps:
        after = next_number((step,), number)
        match step:
            case Launch():
                yield from (Touch(name, number, False, loops) for name in conditions_of(step.body))
                for work in work_of(step.body):
                    yield from (Touch(name, number, write, loops) for name, write in operands(work, kernels))
            case HostCopy():
                yield Touch(step.source, number, False, loops)
                yield Touch(step.target, number, True, loops)
            case HostSet():
                yield Touch(step.target, number, True, loops)
            case HostCall():
                yield from (Touch(name, number, False, loops) for name in (*step.args, *step.reads))
                yield from (Touch(name, number, True, loops) for name in step.results)
            case HostLoop():
                if step.limit:
                    yield Touch(step.limit, number, False, loops)
                inside = (*loops, (number, after - 1))
                if step.condition:
                    yield Touch(step.condition, number, False, inside)
                yield from _touches(step.body, kernels, number + 1, inside)
            case HostIf():
                yield Touch(step.condition, number, False, loops)
                yield from _touches(step.then, kernels, number + 1, loops)
                yield from _touches(step.orelse, kernels, next_number(step.then, number + 1), loops)
        number = after
