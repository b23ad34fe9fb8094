"""Programs for which a graph of the device's can stand: started as a whole, from the second run on.

A graph has a node for each launch, copy and set, and those of loops of a known number of trips are written out. A loop
or branch that is marked (`HostLoop.graph`) is one node, which holds the nodes of its body: the device decides, by its
own values. Without a graph, the host reads these back and the program computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tilewright.ir.expr import Const
from tilewright.ir.program import HostIf, HostLoop, HostStep, reads_back

MOST_NODES = 100_000
"""Nodes beyond which making a graph costs more memory than it saves time."""


def capturable(steps: Sequence[HostStep]) -> bool:
    """Whether a graph can stand for a host tree: the host decides nothing in it, and it has not too many nodes."""
    return not reads_back(steps) and 0 < nodes(steps) <= MOST_NODES


def nodes(steps: Sequence[HostStep]) -> int:
    """Nodes of the graph of a host tree; more than `MOST_NODES` where trips that are written out are not known."""
    total = 0
    for step in steps:
        match step:
            case HostLoop() if step.graph:
                total += 3 + nodes(step.body)  # what begins it, the loop, what ends a trip
            case HostLoop():
                trips = int(step.trip.value) if isinstance(step.trip, Const) else MOST_NODES + 1
                total += trips * nodes(step.body)
            case HostIf():
                total += 2 + nodes(step.then) + nodes(step.orelse)
            case _:
                total += 1
    return total


def written_out(loop: HostLoop) -> bool:
    """Whether a loop makes the same trips in every run, so that a graph can hold them one after the other."""
    return isinstance(loop.trip, Const) and not loop.condition and not loop.limit


def graph_control(steps: Sequence[HostStep]) -> Iterator[HostLoop | HostIf]:
    """The loops and branches that the device decides, in the order of the text, outer ones first."""
    for step in steps:
        match step:
            case HostLoop():
                yield from (step,) * step.graph
                yield from graph_control(step.body)
            case HostIf():
                yield from (step,) * step.graph
                yield from graph_control((*step.then, *step.orelse))
