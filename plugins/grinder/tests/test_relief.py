"""Idle units take over what a busy one need not do itself."""

from __future__ import annotations

from tilewright.ir.expr import Var, const
from tilewright.ir.program import Copy, GridControl, Item, Lane, Phase, Set
from tilewright_grinder.placement.relief import relieved


def unit(number: int, *items: Item) -> Lane:
    return Lane(number, const(1), items)


COPY, OTHER, SETTING = Copy("a", "b"), Copy("c", "d"), Set("n", Var("i"))


def test_independent_copies_go_to_the_last_units() -> None:
    (phase,) = relieved((Phase((unit(0, COPY, OTHER, SETTING),)),), {}, 4)
    assert phase == Phase((unit(0, COPY), unit(2, SETTING), unit(3, OTHER)))


def test_what_depends_on_each_other_stays_together() -> None:
    after = Copy("b", "e")
    (phase,) = relieved((Phase((unit(0, COPY, OTHER, after),)),), {}, 4)
    assert phase == Phase((unit(0, COPY, after), unit(3, OTHER)))


def test_where_nobody_is_idle_nothing_moves() -> None:
    lanes = (unit(0, COPY, OTHER), unit(1, SETTING))
    assert relieved((Phase(lanes),), {}, 2) == (Phase(lanes),)


def test_parts_of_a_copy_stay_with_their_units() -> None:
    part = Copy("c", "d", None, Var("unit"), 2)
    lanes = (unit(0, COPY, part), unit(1, part))
    assert relieved((Phase(lanes),), {}, 4) == (Phase(lanes),)


def test_the_same_inside_of_loops() -> None:
    loop = GridControl("i", const(3), "", (Phase((unit(0, COPY, OTHER),)),))
    (made,) = relieved((loop,), {}, 2)
    assert isinstance(made, GridControl)
    assert made.body == (Phase((unit(0, COPY), unit(1, OTHER))),)
