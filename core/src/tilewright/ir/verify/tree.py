"""Walks over launches and host trees that several laws need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from tilewright.ir.program import (
    BlockControl,
    Copy,
    Fetch,
    Fork,
    GridCall,
    GridControl,
    HostCall,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    Item,
    Kernel,
    Launch,
    Part,
    Phase,
    Program,
    Set,
    Signal,
    Step,
    Task,
    Wait,
    every_call,
    next_number,
    sides_of,
    spans,
)

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
        elif isinstance(part, GridControl):
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
        elif isinstance(part, GridControl):
            yield part
            yield from controls_of((*part.body, *part.orelse))


def conditions_of(parts: Iterable[Part]) -> Iterator[str]:
    """Names of the scalar values that the control of a launch reads."""
    return (name for control in controls_of(parts) for name in decides(control))


def first_phases(parts: Sequence[Part]) -> list[Phase]:
    """The phases that may come first, before any barrier. A call copies into a frame that nothing has read yet."""
    return _first(parts)[0]


def _first(parts: Sequence[Part]) -> tuple[list[Phase], bool]:
    """The phases that may come first, and whether there may be none."""
    found: list[Phase] = []
    for part in parts:
        if isinstance(part, Phase):
            return [*found, part], False
        if isinstance(part, GridCall | Fork):
            return found, False
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
    found = list(touches_of(program.body, program.kernels, 0, ()))
    for name, (first, last) in spans(program.body, program.procedures.values()).items():
        procedure = program.procedures[name]
        inside = [Touch(x, first, True, ()) for x in procedure.params]
        inside += touches_of(procedure.body, program.kernels, first + 1, ())
        inside += [Touch(x, last, False, ()) for x in procedure.results]
        found += [attrs.evolve(x, procedure=name) for x in inside]
    return found


@attrs.frozen
class CallSite:
    """A call at a step of a procedure, or of the host tree ("").

    Args:
        others: that are made in the same step, before it, after it or beside it.
    """

    call: HostCall | GridCall
    step: int
    procedure: str
    others: bool = False


def call_sites(program: Program) -> list[CallSite]:
    """Every call in the order of the text, with the numbers that `Placement` counts steps by."""
    where = spans(program.body, program.procedures.values())
    found = [CallSite(call, step, "") for step, call in numbered_calls(program.body)]
    for name, procedure in program.procedures.items():
        sites = list(numbered_calls(procedure.body, where[name][0] + 1))
        count = Counter(step for step, _ in sites)
        found += [CallSite(call, step, name, count[step] > 1) for step, call in sites]
    return found


def numbered_calls(steps: Sequence[Step], number: int = 0) -> Iterator[tuple[int, HostCall | GridCall]]:
    """The calls among some steps, of which the first has a number, and inside them; those of a launch have its."""
    for step in steps:
        match step:
            case HostCall() | GridCall() | Fork():
                yield from ((number, x) for x in every_call((step,)))
            case Launch():
                yield from ((number, x) for x in every_call(step.body))
            case _:
                first = number + 1
                for side in sides_of(step):
                    yield from numbered_calls(side, first)
                    first = next_number(side, first)
        number = next_number((step,), number)


def touches_of(
    steps: Sequence[Step], kernels: Mapping[str, Kernel], number: int = 0, loops: tuple[tuple[int, int], ...] = ()
) -> Iterator[Touch]:
    """What some steps touch, and the calls in them by what they take and give.

    Args:
        number: of the first step.
        loops: first and last step of each loop around them.
    """
    for step in steps:
        after = next_number((step,), number)
        match step:
            case Launch():
                yield from _touched(step.body, kernels, number, loops)
            case Phase():
                yield from _touched((step,), kernels, number, loops)
            case HostCopy():
                yield Touch(step.source, number, False, loops)
                yield Touch(step.target, number, True, loops)
            case HostSet():
                yield Touch(step.target, number, True, loops)
            case HostCall() | GridCall():
                yield from _called(step, number, loops)
                if isinstance(step, GridCall) and step.late:
                    yield from (Touch(name, number + 1, False, loops) for name in step.results)
            case Fork():
                for call in step.calls:
                    yield from _called(call, number, loops)
            case HostLoop() | GridControl() if step.counter:
                if step.limit:
                    yield Touch(step.limit, number, False, loops)
                inside = (*loops, (number, after - 1))
                if step.condition:
                    yield Touch(step.condition, number, False, inside)
                yield from touches_of(step.body, kernels, number + 1, inside)
            case HostIf() | GridControl():
                yield Touch(step.condition, number, False, loops)
                first = number + 1
                for side in sides_of(step):
                    yield from touches_of(side, kernels, first, loops)
                    first = next_number(side, first)
        if isinstance(step, GridControl):
            # Some units may still decide while others begin with what comes behind.
            yield from (Touch(name, after, False, loops) for name in decides(step))
        number = after


def _touched(
    parts: Sequence[Part], kernels: Mapping[str, Kernel], number: int, loops: tuple[tuple[int, int], ...]
) -> Iterator[Touch]:
    """What units touch in a launch, or in a phase of a procedure, all in one step."""
    yield from (Touch(name, number, False, loops) for name in conditions_of(parts))
    for work in work_of(parts):
        yield from (Touch(name, number, write, loops) for name, write in operands(work, kernels))
    for call in every_call(parts):
        yield from _called(call, number, loops)


def _called(call: HostCall | GridCall, number: int, loops: tuple[tuple[int, int], ...]) -> Iterator[Touch]:
    yield from (Touch(name, number, False, loops) for name in (*call.args, *call.reads))
    yield from (Touch(name, number, True, loops) for name in call.results)
