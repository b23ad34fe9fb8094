# ruff: noqa: E501  (the tables have one case per line)
"""Laws of control, copies and settings inside launches, each with a launch that breaks it."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import pytest

from core.tests.ir.samples import SIZE, TASKS, value
from core.tests.ir.test_verify_module import refused
from core.tests.ir.test_verify_program import (
    DOUBLE,
    FIVE,
    JUDGE,
    TRIPLE,
    WORK,
    condition_program,
    phase1,
    phase2,
    phase3,
    with_storage,
)
from tilewright.interpret.task import run_tasks
from tilewright.ir.expr import Var, const
from tilewright.ir.program import (
    BlockControl,
    Buffer,
    Copy,
    GridControl,
    Item,
    Lane,
    Phase,
    Placement,
    Program,
    Set,
    Storage,
    Task,
)
from tilewright.ir.text import print_program
from tilewright.ir.verify import flow, ordering, phases, program, verify_program

X = np.arange(SIZE, dtype=np.float32) / 16
EVERY = {"first": const(0), "count": const(TASKS)}
double, triple, five = (attrs.evolve(x, **EVERY) for x in (DOUBLE, TRIPLE, FIVE))
again = attrs.evolve(double, args=("u", "t"))
judge = Task("judge", ("t", "go"), const(0))
BACK = Copy("u", "t")


def launch(*parts: Phase | GridControl) -> Program:
    """With the scalars `go` (by the kernel `judge`: whether an array's first element is below 1) and `k`."""
    base = condition_program(*parts)
    k, rows = value("k", "int64", []), value("rows", "float32", [3, SIZE])
    buffers = {x: Buffer(x, "workspace", n) for x, n in (("k", 8), ("rows", 12 * SIZE))}
    places = {x.name: Placement(x, x.name, 0, buffers[x.name].bytes, 0, 0) for x in (k, rows)}
    old = base.storage
    return attrs.evolve(base, storage=Storage({**old.buffers, **buffers}, {**old.placements, **places}))


def unit(*items: Item, number: int = 0) -> Phase:
    return Phase((Lane(number, const(1), items),))


def side_by_side(first: tuple[Item, ...], second: tuple[Item, ...]) -> Phase:
    return Phase((Lane(0, const(1), first), Lane(1, const(1), second)))


def shared_copy(parts: int = TASKS) -> Phase:
    """Every unit copies a part of `u`; of so few bytes most parts are empty."""
    return Phase((Lane(0, const(TASKS), (Copy("u", "t", part=Var("unit"), parts=parts),)),))


def while_block(*body: Item) -> BlockControl:
    return BlockControl("i", None, "go", body)


LEGAL: dict[str, tuple[Callable[[], Program], Callable[[float], float]]] = {
    "a loop of the grid with a carried state": (lambda: launch(phase1, GridControl("i", const(3), "", (phase2, shared_copy())), phase2, phase3), lambda x: x * 2 * 27 * 3 * 5),
    "a loop of a unit": (lambda: launch(unit(double, BlockControl("i", const(3), "", (triple, BACK)), triple, five)), lambda x: x * 2 * 27 * 3 * 5),
    "a limit that is set": (lambda: launch(unit(Set("k", const(2)), double, BlockControl("i", None, "", (triple, BACK), limit="k"), triple, five)), lambda x: x * 2 * 9 * 3 * 5),
    "a limit of the grid, zero trips": (lambda: launch(unit(Set("k", const(0))), phase1, GridControl("i", None, "", (phase2, shared_copy()), limit="k"), phase2, phase3), lambda x: x * 30),
    "a condition of a unit": (lambda: launch(unit(double, judge, while_block(triple, BACK, judge), triple, five)), lambda x: (x * 2 if x * 2 >= 1 or x == 0 else x * 2 * 3 ** np.ceil(np.log(0.5 / x) / np.log(3))) * 15),
    "two sides that write one value": (lambda: launch(unit(double, judge, BlockControl("", None, "go", (triple,), (BACK_FROM_T,)), five)), lambda x: x * 2 * 5 * (3 if x * 2 < 1 else 1)),
    "a branch inside a branch": (lambda: launch(unit(double, judge, BlockControl("", None, "go", (BlockControl("", None, "go", (triple,), (BACK_FROM_T,)),), (BACK_FROM_T,)), five)), lambda x: x * 2 * 5 * (3 if x * 2 < 1 else 1)),
    "a condition that is settled before it is written again": (lambda: launch(phase1, JUDGE, GridControl("i", const(2), "go", (phase2, shared_copy(), unit(judge))), phase2, phase3), lambda x: x * 30 if x >= 1 else x * 30 * (9 if x * 6 < 1 else 3)),
}  # fmt: skip
BACK_FROM_T = Copy("t", "u")


@pytest.mark.parametrize("case", LEGAL)
@pytest.mark.parametrize("first", [0.25, 2.0])
def test_launches_that_keep_the_laws_mean_what_they_say(case: str, first: float) -> None:
    """The first element decides, whatever the order of the units."""
    make, wanted = LEGAL[case]
    made = make()
    verify_program(made)
    assert "loop" in print_program(made) or "if" in print_program(made)
    x = np.full(SIZE, first, np.float32)
    for seed in range(6):
        np.testing.assert_allclose(run_tasks(made, [x], seed)[0], np.float32(wanted(first)) * np.ones(SIZE), rtol=1e-6)


def test_rows_are_collected_and_numbers_are_set() -> None:
    rows = BlockControl("i", const(3), "", (triple, Copy("u", "rows", Var("i")), BACK))
    made = launch(unit(double, rows, triple, five))
    verify_program(made)
    assert np.array_equal(run_tasks(made, [X])[0], X * 2 * 27 * 3 * 5)


REFUSED: dict[str, tuple[Callable[[], Program], str, str]] = {
    "a copy that overtakes the writer": (lambda: launch(phase1, side_by_side((triple,), (BACK,)), phase2, phase3), ordering.LAW, "the copy of 'u' to 't'"),
    "a dropped barrier behind a copy": (lambda: launch(*WORK, Phase((Lane(0, const(TASKS), (Copy("u", "t", part=Var("unit"), parts=TASKS), TRIPLE)),)), phase3), ordering.LAW, "'t'"),
    "a part that nobody copies": (lambda: launch(*WORK, Phase((Lane(0, const(TASKS - 1), (Copy("u", "t", part=Var("unit"), parts=TASKS),)),)), phase2, phase3), phases.TASKS, "task 3 0 times"),
    "a copy over itself": (lambda: with_storage(launch(*WORK, unit(BACK), phase3), {"u": {"offset": 0}}), ordering.LAW, "over"),
    "a copy past the end": (lambda: launch(*WORK, unit(BlockControl("i", const(4), "", (Copy("u", "rows", Var("i")),))), phase3), program.COPIES, "'rows'"),
    "a copy into the input": (lambda: launch(*WORK, unit(Copy("u", "x")), phase3), program.CONSTANT, "'x'"),
    "a set of an array": (lambda: launch(unit(Set("t", const(1))), phase2, phase3), program.SCALARS, "'t'"),
    "a limit that is no int64": (lambda: launch(phase1, JUDGE, GridControl("i", None, "", (phase2,), limit="go"), phase2, phase3), program.SCALARS, "'go'"),
    "a limit that is not written": (lambda: launch(phase1, GridControl("i", None, "", (phase2,), limit="k"), phase2, phase3), flow.WRITTEN, "'k'"),
    "a unit's limit that is not written": (lambda: launch(unit(double, BlockControl("i", None, "", (triple,), limit="k"), triple, five)), flow.WRITTEN, "'k'"),
    "a loop without an end": (lambda: launch(phase1, GridControl("i", None, "", (phase2,)), phase2, phase3), program.CONTROL, "loop i"),
    "a branch with a trip count": (lambda: launch(phase1, JUDGE, GridControl("", const(2), "go", (phase2,)), phase2, phase3), program.CONTROL, "if go"),
    "a loop that may have no trip as the only writer": (lambda: launch(unit(double, judge, while_block(triple), five)), flow.WRITTEN, "'u'"),
    "a side that writes nothing": (lambda: launch(unit(double, judge, BlockControl("", None, "go", (triple,)), five)), flow.WRITTEN, "'u'"),
    "a state read before it is there": (lambda: launch(unit(judge, while_block(triple, BACK), double, triple, five)), flow.WRITTEN, "'t'"),
    "a condition of a unit that another writes": (lambda: launch(phase1, JUDGE, side_by_side((BlockControl("", None, "go", (triple,), (BACK_FROM_T,)),), (judge,)), phase3), ordering.LAW, "'go'"),
    "a condition written on the next trip of a loop around": (lambda: launch(phase1, JUDGE, GridControl("j", const(2), "", (unit(judge), GridControl("i", const(1), "go", (phase2,)))), phase2, phase3), program.UNIFORM, "'go'"),
    "a limit written while units may still read it": (lambda: launch(unit(Set("k", const(1))), phase1, GridControl("i", None, "", (side_by_side((triple,), (Set("k", const(2)),)),), limit="k"), phase2, phase3), program.UNIFORM, "'k'"),
    "a condition written right behind its loop": (lambda: launch(phase1, unit(Set("k", const(2)), judge), GridControl("i", None, "go", (phase2, shared_copy(), side_by_side((triple,), (judge,)))), unit(judge), phase2, phase3), program.UNIFORM, "'go'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_launches_that_break_a_law_are_refused(case: str) -> None:
    make, law, place = REFUSED[case]
    refused(lambda: verify_program(make()), law, place, "program", "launch all")
