"""Loops that begin elsewhere in their trip: numbers set for the next trip, copies in the next trip's first phase."""

from __future__ import annotations

import pytest

from tilewright.ir.expr import Expr, Var, const
from tilewright.ir.program import Copy, GridControl, HostCopy, HostLoop, HostSet, Lane, Phase, Set
from tilewright_grinder.placement.turn import rotated, turned


def test_a_loops_number_is_set_for_the_next_trip() -> None:
    body = (HostSet("n", Var("i") * 2 + 1), HostCopy("a", "b"))
    before, loop = turned(HostLoop("i", const(4), "", body))
    assert before == (HostSet("n", const(1)),)
    assert loop.body == (HostCopy("a", "b"), HostSet("n", (Var("i") + 1) * 2 + 1))


@pytest.mark.parametrize("value", [const(3), Var("i") + Var("j")])
def test_what_does_not_follow_from_the_trips_number_alone_stays(value: Expr) -> None:
    loop = HostLoop("i", const(4), "", (HostSet("n", value), HostCopy("a", "b")))
    assert turned(loop) == ((), loop)


def copies(source: str, row: Expr) -> Phase:
    return Phase((Lane(0, const(1), (Copy(source, "rows", row),)),))


def sets(name: str, value: Expr) -> Phase:
    return Phase((Lane(1, const(1), (Set(name, value),)),))


def test_a_copy_at_the_end_is_made_in_the_next_trip() -> None:
    """Set a, then b; copy b: the first trip stands before the loop, the last copy behind it."""
    number = Var("i")
    loop = GridControl("i", const(5), "", (sets("a", number), sets("b", number * 2), copies("b", number)))
    first, second, found, last = rotated(loop, {})
    assert (first, second) == (sets("a", const(0)), sets("b", const(0)))
    assert last == copies("b", const(4))
    assert isinstance(found, GridControl)
    assert found.trip == const(4)
    ahead, rest = found.body
    assert isinstance(ahead, Phase)
    (copy,) = (x for lane in ahead.lanes for x in lane.items if isinstance(x, Copy))
    (setting,) = (x for lane in ahead.lanes for x in lane.items if isinstance(x, Set))
    assert (copy.row, setting) == (number, Set("a", number + 1))
    assert rest == sets("b", (number + 1) * 2)


@pytest.mark.parametrize(
    "loop",
    [
        GridControl("i", const(5), "", (sets("b", Var("i")), copies("b", Var("i")))),
        GridControl("i", const(1), "", (sets("a", Var("i")), copies("b", Var("i")))),
        GridControl("i", const(5), "go", (sets("a", Var("i")), copies("b", Var("i")))),
        GridControl("i", const(5), "", (sets("a", Var("i")), sets("b", Var("i")))),
    ],
)
def test_other_loops_are_left(loop: GridControl) -> None:
    """What is copied is written in the first phase; one trip; an end that data decide; a last phase that does more."""
    assert rotated(loop, {}) == (loop,)
