"""Laws of control that the device decides while a graph stands for the program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tilewright.ir.expr import Expr, variables
from tilewright.ir.graphs import capturable, graph_control, written_out
from tilewright.ir.program import (
    GridControl,
    HostCall,
    HostIf,
    HostLoop,
    HostStep,
    Launch,
    Part,
    Phase,
    Program,
    Signal,
    Task,
    Wait,
)
from tilewright.ir.verify.laws import Place, show
from tilewright.ir.verify.tree import controls_of, leaves

if TYPE_CHECKING:
    from tilewright.device import DeviceModel

FEATURE = "graph.conditional"
"""What the models of devices call it that a graph can hold loops and branches."""

WHOLE = "where the device decides a loop or branch of the host program, one graph stands for all of the program"
INSIDE = (
    "inside a loop or branch that the device decides nothing is called, and whatever values decide the device decides"
)
COUNTER = "the counter of a loop that the device decides is used in what is set and in the rows of copies only"
DEVICE = "the device has graphs with loops and branches"


def check_graphs(program: Program, device: DeviceModel | None, place: Place) -> None:
    """Refuses control that is marked as the device's where no graph can hold it."""
    found = list(graph_control(program.steps))
    if not found:
        return
    if device is not None and not device.has(FEATURE):
        raise _at(found[0], place).broken(DEVICE, f"{device.name} has not")
    for control in found:
        _check(control, _at(control, place))
    if program.procedures or not capturable(program.body):
        raise _at(found[0], place).broken(WHOLE, "the host decides or calls elsewhere, or there are too many nodes")


def _at(control: HostLoop | HostIf, place: Place) -> Place:
    name = f"loop {control.counter}" if isinstance(control, HostLoop) else f"if {control.condition}"
    return place.at(f"graph {name}")


def _check(control: HostLoop | HostIf, place: Place) -> None:
    inside = control.body if isinstance(control, HostLoop) else (*control.then, *control.orelse)
    _check_inside(inside, place)
    if isinstance(control, HostLoop):
        for expr in _expressions(inside):
            if control.counter in variables(expr):
                raise place.broken(COUNTER, f"{show(expr)} depends on it")


def _check_inside(steps: Sequence[HostStep], place: Place) -> None:
    for step in steps:
        match step:
            case HostCall():
                raise place.broken(INSIDE, f"{step.procedure!r} is called")
            case HostIf():
                if not step.graph:
                    raise place.broken(INSIDE, f"the host decides by {step.condition!r}")
                _check_inside((*step.then, *step.orelse), place)
            case HostLoop():
                if not step.graph and not written_out(step):
                    raise place.broken(INSIDE, f"the host decides how many trips loop {step.counter!r} makes")
                _check_inside(step.body, place)


def _expressions(steps: Sequence[HostStep]) -> Iterator[Expr]:
    """The numbers that launches and loops depend on."""
    for step in steps:
        match step:
            case Launch():
                yield from _launched(step)
            case HostIf():
                yield from _expressions((*step.then, *step.orelse))
            case HostLoop():
                yield from () if step.trip is None else (step.trip,)
                yield from _expressions(step.body)


def _launched(launch: Launch) -> Iterator[Expr]:
    yield from (lane.units for part in _phases(launch.body) for lane in part.lanes)
    yield from (x.trip for x in controls_of(launch.body) if x.trip is not None)
    for leaf in leaves(launch.body):
        match leaf:
            case Task():
                yield from (leaf.first, leaf.count, leaf.stride)
            case Signal():
                yield leaf.index
            case Wait():
                yield from (leaf.index, leaf.target)
            case _:
                given = (getattr(leaf, name, None) for name in ("row", "part", "value", "first"))
                yield from (x for x in given if isinstance(x, Expr))


def _phases(parts: Sequence[Part]) -> Iterator[Phase]:
    for part in parts:
        if isinstance(part, Phase):
            yield part
        elif isinstance(part, GridControl):
            yield from _phases((*part.body, *part.orelse))
