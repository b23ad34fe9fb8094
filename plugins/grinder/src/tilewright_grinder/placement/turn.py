"""Loops begin elsewhere in their trip, so that what would stand alone behind a barrier shares a phase with other work.

What sets a trip's number does it at the end of the trip before, while the number is not read any more (`turned`).
Copies at the end of a trip are made in the first phase of the next one (`rotated`).
"""

from __future__ import annotations

import attrs

from tilewright.ir.expr import Const, Expr, Var, const, substitute, variables
from tilewright.ir.program import Copy, GridControl, HostLoop, HostSet, HostStep, Part, Phase
from tilewright.planning.place.double import Turned
from tilewright_grinder.placement.barriers import Kernels, clash, joined, together, uses_of


def turned(loop: HostLoop) -> tuple[tuple[HostStep, ...], HostLoop]:
    """What sets the number of the first trip, and the loop, in which a trip ends by setting the number of the next."""
    first = loop.body[0] if loop.body else None
    if not isinstance(first, HostSet) or variables(first.value) != {loop.counter}:
        return (), loop

    def setting(counter: Expr) -> HostSet:
        return HostSet(first.target, substitute(first.value, {loop.counter: counter}))

    after = setting(Var(loop.counter) + 1)
    return (setting(const(0)),), attrs.evolve(loop, body=(*loop.body[1:], after))


def rotated(loop: GridControl, kernels: Kernels) -> tuple[Part, ...]:
    """The loop, whose last phase, if it only copies, stands in the first phase of the next trip.

    The first trip is in front of the loop then, and the last copies are behind it.
    """
    *before, last = loop.body
    trips = loop.trip
    if not isinstance(trips, Const) or trips.value < 2 or loop.condition or loop.limit or not before:
        return (loop,)
    first = before[0]
    if not isinstance(first, Phase) or not isinstance(last, Phase) or not (first.fixed and last.fixed):
        return (loop,)
    if not all(isinstance(x, Copy) for lane in last.lanes for x in lane.items):
        return (loop,)
    if clash(uses_of(last, kernels), uses_of(first, kernels))[1]:
        return (loop,)

    def trip(part: Part, counter: Expr) -> Part:
        return Turned({}, {loop.counter: counter}, "").part(part)

    once = [trip(x, const(0)) for x in before]
    number = Var(loop.counter)
    ahead, *rest = (trip(x, number + 1) for x in before)
    assert isinstance(ahead, Phase)
    body = joined((together(last, ahead), *rest), kernels)
    behind = trip(last, const(int(trips.value) - 1))
    return (*once, attrs.evolve(loop, trip=const(int(trips.value) - 1), body=body), behind)
