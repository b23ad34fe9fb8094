"""Loops and branches at level graph: host steps that are marked, for the device decides them while a graph runs."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.ir.graphs import capturable, graph_control
from tilewright.ir.program import HostIf, HostLoop, HostStep, calls, reads_back
from tilewright.ir.verify.graphs import FEATURE
from tilewright.planning.session import Session


def without_graph(session: Session) -> str:
    """Why no graph can hold control of the program, "" where one can."""
    if not session.device.has(FEATURE):
        return f"no graph of {session.device.name} has loops and branches"
    if session.functions.params:
        return "the host calls functions, so no graph stands for the program"
    return ""


def torn(steps: Sequence[HostStep]) -> bool:
    """Whether some control is marked and yet no graph can stand for the program: something else keeps it from that."""
    return any(True for _ in graph_control(steps)) and not capturable(steps)


def marked(steps: Sequence[HostStep], counter: str, condition: str) -> tuple[HostStep, ...] | str:
    """Steps in which the device decides a loop or a branch, or why it cannot.

    Args:
        steps: what the loop or branch is for the host, with its inside placed.
        counter: of the loop, "" for a branch.
        condition: of the branch.
    """
    made: list[HostStep] = []
    for step in steps:
        match step:
            case HostLoop() if counter and step.counter == counter:
                # A loop over pairs of trips has a branch on its condition between them.
                made.append(attrs.evolve(step, graph=True, body=_marked_branches(step.body, step.condition)))
            case HostIf() if not counter and step.condition == condition:
                made.append(attrs.evolve(step, graph=True))
            case _:
                made.append(step)
    if calls(made):
        return "the host calls a function inside"
    return "the host decides something inside" if reads_back(made) else tuple(made)


def unmarked(steps: Sequence[HostStep]) -> tuple[HostStep, ...]:
    """The same steps, all of them decided by the host."""
    made: list[HostStep] = []
    for step in steps:
        match step:
            case HostLoop():
                made.append(attrs.evolve(step, graph=False, body=unmarked(step.body)))
            case HostIf():
                then, orelse = unmarked(step.then), unmarked(step.orelse)
                made.append(attrs.evolve(step, graph=False, then=then, orelse=orelse))
            case _:
                made.append(step)
    return tuple(made)


def _marked_branches(steps: Sequence[HostStep], condition: str) -> tuple[HostStep, ...]:
    return tuple(
        attrs.evolve(x, graph=True) if isinstance(x, HostIf) and condition and x.condition == condition else x
        for x in steps
    )
