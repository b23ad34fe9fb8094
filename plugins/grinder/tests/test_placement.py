"""Parts of the placement by hand: waits as phases, phases that join, barriers around conditions, tasks dealt out."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

from core.tests.ir import samples
from core.tests.ir.samples import SIZE, TASKS
from tilewright.interpret.task import run_tasks
from tilewright.ir.choice import Resources, TileChoice
from tilewright.ir.expr import Const, Var, const
from tilewright.ir.program import (
    UNIT,
    Envelope,
    GridControl,
    Item,
    Lane,
    Launch,
    Phase,
    Set,
    Signal,
    Task,
    Wait,
    launches,
)
from tilewright.ir.verify import verify_program
from tilewright_grinder.placement.barriers import EMPTY, joined, settled
from tilewright_grinder.placement.lift import dealt
from tilewright_grinder.placement.waits import folded, without_waits

X = np.arange(SIZE, dtype=np.float32)
KERNELS = samples.program().kernels
DOUBLE = Task("double", ("x", "t"), const(0), const(TASKS))
TRIPLE = Task("triple", ("t", "u"), const(0), const(TASKS))
FIVE = Task("five", ("u", "y"), const(0), const(TASKS))


def unit(number: int, *items: Item) -> Lane:
    return Lane(number, const(1), items)


def spread(task: Task) -> Phase:
    """All tasks, each on a unit of its own."""
    return Phase((Lane(0, const(TASKS), (Task(task.kernel, task.args, Var(UNIT)),)),))


def right(*parts: Phase | GridControl) -> None:
    """The sample program as one launch of these parts keeps the laws and computes `30 x`, whatever the order."""
    base = samples.program("phases")
    launch = Launch("all", Envelope(TASKS, 32, cooperative=True), parts, samples.EVENTS)
    made = attrs.evolve(base, body=(launch,))
    verify_program(made)
    for seed in range(5):
        assert np.array_equal(run_tasks(made, [X], seed)[0], X * 30)


def test_waits_become_phases() -> None:
    """A unit's work stands right behind what it has waited for; units that wait for nothing do not wait."""
    lanes = (
        unit(0, DOUBLE, Signal("done", const(0))),
        unit(1, Wait("done", const(0), const(1)), TRIPLE, Signal("done", const(1))),
        unit(2, Wait("done", const(1), const(1)), FIVE),
    )
    phases = without_waits(Launch("l", Envelope(TASKS, 32, cooperative=True), (Phase(lanes),), samples.EVENTS))
    assert phases == (Phase((unit(0, DOUBLE),)), Phase((unit(1, TRIPLE),)), Phase((unit(2, FIVE),)))
    assert not isinstance(phases, str)
    right(*phases)


def test_a_wait_for_what_the_unit_did_itself_is_no_barrier() -> None:
    lanes = (unit(0, DOUBLE, Signal("done", const(0)), Wait("done", const(0), const(1)), TRIPLE, FIVE),)
    phases = without_waits(Launch("l", Envelope(TASKS, 32, cooperative=True), (Phase(lanes),), samples.EVENTS))
    assert phases == (Phase((unit(0, DOUBLE, TRIPLE, FIVE),)),)


def test_what_units_kept_is_read_from_memory_again() -> None:
    """A loop of the launch would fetch it in each trip."""
    base = samples.near_program()
    (launch,) = launches(base.body)
    phases = without_waits(launch)
    assert not isinstance(phases, str)
    (task,) = phases[0].lanes[0].items
    assert task == Task("scale", ("x", "w", "y"), Var(UNIT))
    trips = GridControl("trip", const(2), "", phases)
    looped = attrs.evolve(launch, envelope=Envelope(TASKS, 32, cooperative=True), body=(trips,))
    verify_program(attrs.evolve(base, body=(looped,)))


@pytest.mark.parametrize("target", [1, 3])
def test_waits_for_some_of_the_signals_are_not_known(target: int) -> None:
    lanes = (
        unit(0, DOUBLE, Signal("done", const(0))),
        unit(1, Signal("done", const(0)), Wait("done", const(0), const(target)), TRIPLE),
    )
    found = without_waits(Launch("l", Envelope(TASKS, 32, cooperative=True), (Phase(lanes),), samples.EVENTS))
    assert isinstance(found, str)
    assert "launch l" in found


def test_more_units_than_there_are_take_turns() -> None:
    phase = folded(spread(DOUBLE), 3)
    assert [(x.first, [str(i.first) for i in x.items if isinstance(i, Task)]) for x in phase.lanes] == [
        (0, ["0", "3"]),
        (1, ["1"]),
        (2, ["2"]),
    ]
    right(phase, spread(TRIPLE), spread(FIVE))
    assert folded(spread(DOUBLE), TASKS) == spread(DOUBLE)


def test_phases_join_where_nothing_crosses_units() -> None:
    alone = [Phase((unit(0, x),)) for x in (DOUBLE, TRIPLE, FIVE)]
    assert joined(alone, KERNELS) == (Phase((unit(0, DOUBLE, TRIPLE, FIVE),)),)
    crossing = [alone[0], Phase((unit(1, TRIPLE),)), Phase((unit(1, FIVE),))]
    made = joined(crossing, KERNELS)
    assert made == (alone[0], Phase((unit(1, TRIPLE, FIVE),)))
    right(*made)
    apart = [spread(x) for x in (DOUBLE, TRIPLE, FIVE)]
    assert joined(apart, KERNELS) == tuple(apart)


def test_a_phase_goes_back_past_what_it_has_nothing_to_do_with() -> None:
    other = Phase((unit(3, Task("double", ("x", "v"), const(0), const(TASKS))),))
    made = joined([spread(DOUBLE), spread(TRIPLE), other, spread(FIVE)], KERNELS)
    assert len(made) == 3
    first = made[0]
    assert isinstance(first, Phase)
    assert [(x.first, int(x.units.value), len(x.items)) for x in first.lanes if isinstance(x.units, Const)] == [
        (0, 3, 1),
        (3, 1, 2),
    ]


def test_a_phase_does_not_go_back_past_a_loop() -> None:
    loop = GridControl("i", const(2), "", (Phase((unit(0, TRIPLE),)),))
    other = Phase((unit(3, Task("double", ("x", "v"), const(0), const(TASKS))),))
    assert joined([spread(DOUBLE), loop, other], KERNELS) == (spread(DOUBLE), loop, other)


GO = Phase((unit(0, Set("go", const(1))),))


def test_a_barrier_stands_before_a_condition_is_written_again() -> None:
    """At the beginning of a body, behind the loop, and where the next trip of a loop around begins."""
    loop = GridControl("i", None, "go", (GO, spread(DOUBLE)))
    (made,) = settled((loop,), KERNELS)
    assert isinstance(made, GridControl)
    assert made.body == (EMPTY, GO, spread(DOUBLE))
    late = GridControl("i", None, "go", (spread(DOUBLE), GO))
    assert settled((late,), KERNELS) == (late,)
    assert settled((late, GO), KERNELS) == (late, EMPTY, GO)
    around = GridControl("j", const(2), "", (GO, late))
    (outer,) = settled((around,), KERNELS)
    assert isinstance(outer, GridControl)
    assert outer.body == (GO, late, EMPTY)
    branch = GridControl("", None, "go", (spread(DOUBLE),), (GO,))
    (made,) = settled((branch,), KERNELS)
    assert isinstance(made, GridControl)
    assert (made.body, made.orelse) == ((spread(DOUBLE),), (EMPTY, GO))


@pytest.mark.parametrize("units", [1, 3, 4, 9])
def test_tasks_are_dealt_out(units: int) -> None:
    choice = TileChoice("sample", {}, Resources(TASKS, 32))
    lane = dealt(DOUBLE, choice, units)
    assert isinstance(lane.units, Const)
    assert int(lane.units.value) == min(units, TASKS)
    right(Phase((lane,)), spread(TRIPLE), spread(FIVE))
