# ruff: noqa: E501  (the tables have one case per line)
"""Which programs a graph can stand for, and the laws of what the device decides in it, each with what breaks it."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

from core.tests.ir.samples import SIZE, TASKS
from core.tests.ir.test_verify_module import refused
from core.tests.ir.test_verify_program import LAUNCHES, launch
from tilewright.device import load_device
from tilewright.interpret.task import run_tasks
from tilewright.ir.expr import Var, const
from tilewright.ir.graphs import MOST_NODES, capturable, graph_control, nodes, written_out
from tilewright.ir.program import (
    UNIT,
    Copy,
    Envelope,
    GridControl,
    HostCall,
    HostCopy,
    HostIf,
    HostLoop,
    HostSet,
    HostStep,
    Lane,
    Launch,
    Phase,
    Procedure,
    Program,
    Set,
    Task,
    Wait,
    reads_back,
)
from tilewright.ir.text import print_program
from tilewright.ir.verify import verify_program
from tilewright.ir.verify.graphs import COUNTER, DEVICE, INSIDE, WHOLE, check_graphs
from tilewright.ir.verify.laws import Place

ONE, TWO, THREE = LAUNCHES.body
H200 = load_device("h200")
I = Var("i")  # noqa: E741
CALL = HostCall("f", (), ())


def loop(*body: HostStep, graph: bool = True, trips: int | None = 3, condition: str = "", limit: str = "") -> HostLoop:
    return HostLoop("i", None if trips is None else const(trips), condition, body, limit, graph)


def branch(*then: HostStep, orelse: tuple[HostStep, ...] = (), graph: bool = True) -> HostIf:
    return HostIf("go", then, orelse, graph)


def inside(*parts: Phase | GridControl) -> HostLoop:
    return loop(Launch("all", Envelope(TASKS, 32), parts))


def doing(*items: Task | Copy | Set | Wait) -> HostLoop:
    return inside(Phase((Lane(0, const(TASKS), items),)))


TASK = Task("double", ("x", "t"), Var(UNIT))

KEPT: dict[str, tuple[HostStep, ...]] = {
    "a loop by a condition": (ONE, loop(TWO, trips=None, condition="go")),
    "a limit and a branch in it": (loop(branch(TWO, orelse=(THREE,)), trips=None, limit="k"),),
    "a branch without a second side": (branch(TWO), THREE),
    "what its counter sets and copies": (loop(HostSet("k", I + 1), HostCopy("t", "rows", I * 2)),),
    "a loop of known trips inside": (loop(attrs.evolve(loop(TWO, graph=False), counter="j"), trips=None, condition="go"),),
    "inside a loop that is written out": (loop(branch(TWO), graph=False),),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_the_device_may_decide(case: str) -> None:
    body = KEPT[case]
    assert not reads_back(body)
    assert capturable(body)
    assert any(graph_control(body))
    check_graphs(attrs.evolve(LAUNCHES, body=body), H200, Place("program"))


TOO_MANY = loop(TWO, graph=False, trips=MOST_NODES)
BROKEN: dict[str, tuple[tuple[HostStep, ...], str, str]] = {
    "a branch of the host inside": ((loop(branch(TWO, graph=False)),), INSIDE, "graph loop i: the host decides by 'go'"),
    "a loop of the host inside": ((branch(loop(TWO, graph=False, condition="go")),), INSIDE, "graph if go"),
    "a limit of the host inside": ((branch(loop(TWO, graph=False, limit="k")),), INSIDE, "loop 'i'"),
    "trips that a run knows inside": ((branch(attrs.evolve(loop(TWO, graph=False), trip=Var("n"))),), INSIDE, "loop 'i'"),
    "a branch of the host deeper": ((loop(branch(branch(TWO, graph=False))),), INSIDE, "graph loop i"),
    "a call inside": ((branch(TWO, orelse=(CALL,)),), INSIDE, "'f' is called"),
    "a call elsewhere": ((branch(TWO), CALL), WHOLE, "graph if go"),
    "a branch of the host elsewhere": ((branch(THREE, graph=False), loop(TWO)), WHOLE, "graph loop i"),
    "too many nodes elsewhere": ((branch(TWO), TOO_MANY), WHOLE, "graph if go"),
    "a task by its counter": ((doing(attrs.evolve(TASK, first=Var(UNIT) + I)),), COUNTER, "unit + i"),
    "a row inside a launch": ((doing(Copy("t", "rows", I)),), COUNTER, "i depends"),
    "a set inside a launch": ((doing(Set("k", I)),), COUNTER, "i depends"),
    "a wait by its counter": ((doing(Wait("ring", const(0), I * 2)),), COUNTER, "2"),
    "units by its counter": ((inside(Phase((Lane(0, I, (TASK,)),))),), COUNTER, "i depends"),
    "trips inside a launch": ((inside(GridControl("j", I, "", (Phase(()),))),), COUNTER, "i depends"),
    "trips of a loop inside": ((loop(HostLoop("j", I, "", (TWO,), graph=True)),), COUNTER, "i depends"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_no_graph_can_hold_is_refused(case: str) -> None:
    body, law, where = BROKEN[case]
    refused(lambda: check_graphs(attrs.evolve(LAUNCHES, body=body), H200, Place("program")), law, where)


@pytest.mark.parametrize("device", ["mi300x", "v100"])
def test_devices_without_such_graphs_refuse_it(device: str) -> None:
    body = (loop(TWO, condition="go"),)
    refused(lambda: verify_program(looped(), load_device(device)), DEVICE, "graph loop i")
    refused(lambda: check_graphs(attrs.evolve(LAUNCHES, body=body), load_device(device), Place("p")), DEVICE, device)


def test_a_program_with_procedures_has_no_graph() -> None:
    made = attrs.evolve(LAUNCHES, body=(branch(TWO),), procedures={"f": Procedure("f", (), (), ())}, depth=2)
    refused(lambda: check_graphs(made, H200, Place("program")), WHOLE, "graph if go")


def looped(graph: bool = True) -> Program:
    """`y = 2 x · 3³ · 5`, with a loop that the device counts."""
    back = loop(TWO, HostCopy("u", "t"), graph=graph)
    old = LAUNCHES.storage
    places = {n: attrs.evolve(p, first=0, last=9) for n, p in old.placements.items()}
    return attrs.evolve(LAUNCHES, body=(ONE, back, launch("triple", *_items(TWO), label="again"), THREE), storage=attrs.evolve(old, placements=places))  # fmt: skip


def _items(step: HostStep) -> tuple[Task, ...]:
    assert isinstance(step, Launch)
    (phase,) = step.body
    assert isinstance(phase, Phase)
    return tuple(x for x in phase.lanes[0].items if isinstance(x, Task))


def test_marks_change_nothing_that_a_program_means() -> None:
    x = np.arange(SIZE, dtype=np.float32)
    verify_program(looped(), H200)
    assert np.array_equal(run_tasks(looped(), [x])[0], x * 2 * 81 * 5)
    assert np.array_equal(run_tasks(looped(), [x])[0], run_tasks(looped(graph=False), [x])[0])
    assert "graph loop i < 3 {" in print_program(looped())
    assert "graph" not in print_program(looped(graph=False))
    assert "graph if go {" in print_program(attrs.evolve(LAUNCHES, body=(branch(TWO),)))


def test_nodes_are_counted_with_what_is_written_out() -> None:
    assert nodes((ONE, TWO)) == 2
    assert nodes((loop(TWO, THREE, graph=False),)) == 6
    assert nodes((loop(TWO, THREE),)) == 5
    assert nodes((branch(TWO, orelse=(TWO, THREE)),)) == 5
    assert nodes((attrs.evolve(loop(TWO, graph=False), trip=Var("n")),)) > MOST_NODES


def test_what_is_captured() -> None:
    assert capturable((ONE,))
    assert not capturable(())
    assert capturable((loop(ONE, graph=False, trips=300),))
    assert not capturable((loop(ONE, graph=False, trips=1_000_000),))
    assert capturable((loop(ONE, trips=1_000_000),))
    assert not capturable((loop(ONE, graph=False, condition="go"),))
    assert not capturable((loop(branch(ONE, graph=False)),))
    assert not capturable((ONE, CALL))
    assert written_out(loop(ONE))
    assert not written_out(loop(ONE, condition="go"))
    assert not written_out(loop(ONE, trips=None, limit="k"))
