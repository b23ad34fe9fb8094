"""Values of one launch share bytes exactly where one is over before the other begins, and the verifier sees to it."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

from core.tests.ir import samples
from core.tests.ir.samples import SIZE, TASKS, value
from core.tests.ir.test_verify_module import refused
from tilewright.interpret.task import run_tasks
from tilewright.ir.expr import Var, const
from tilewright.ir.program import (
    UNIT,
    Envelope,
    GridControl,
    HostStep,
    Item,
    Kernel,
    Lane,
    Launch,
    Phase,
    Program,
    Signal,
    Task,
    Wait,
)  # fmt: skip
from tilewright.ir.verify import turns, verify_program
from tilewright.planning.storage import allocate, pack_by_conflicts
from tilewright.planning.within import conflicts_within

KERNELS: dict[str, Kernel] = {
    "double": samples.kernel("double", "x", "a", 2),
    "triple": samples.kernel("triple", "x", "b", 3),
    "five": samples.kernel("five", "a", "c", 5),
    "seven": samples.kernel("seven", "b", "y", 7),
}
NAMES = ("a", "b", "c")


def task(name: str, unit: bool = False) -> Task:
    """All tasks of a kernel, or that of a unit's number."""
    kernel = KERNELS[name]
    first, count = (Var(UNIT), const(1)) if unit else (const(0), const(TASKS))
    return Task(name, tuple(x.name for x in kernel.params), first, count)


def launch(*lanes: tuple[Item, ...], units: int = 1, events: int = 0) -> Launch:
    """One phase, each lane of so many units."""
    made = tuple(Lane(i * units, const(units), items) for i, items in enumerate(lanes))
    envelope = Envelope(units * len(lanes), 32, cooperative=True)
    return Launch("all", envelope, (Phase(made),), {"done": events} if events else {})


def program(step: Launch) -> Program:
    steps: tuple[HostStep, ...] = (step,)
    values = {n: value(n, "float32", [SIZE]) for n in "xabcy"}
    storage = allocate(steps, values, (values["x"],), (values["y"],), (), kernels=KERNELS)
    return Program((values["x"],), (values["y"],), KERNELS, steps, storage, {})


ONE_UNIT = launch((task("double"), task("triple"), task("five"), task("seven")))
FIRST_ONE_THEN_THE_OTHER = launch((task("double"), task("five"), task("triple"), task("seven")))
SIDE_BY_SIDE = launch((task("double"), task("five")), (task("triple"), task("seven")))
WAITING = launch(
    (task("double"), task("five"), Signal("done", const(0))),
    (Wait("done", const(0), const(1)), task("triple"), task("seven")),
    events=1,
)
WAITING_FOR_ONE_OF_TWO = launch(
    (task("double"), Signal("done", const(0)), task("five"), Signal("done", const(0))),
    (Wait("done", const(0), const(1)), task("triple"), task("seven")),
    events=1,
)
PHASES = attrs.evolve(
    ONE_UNIT,
    envelope=Envelope(TASKS, 32, cooperative=True),
    body=tuple(Phase((Lane(0, const(TASKS), (task(x, unit=True),)),)) for x in ("double", "five", "triple", "seven")),
)
TWO_PHASES = attrs.evolve(
    ONE_UNIT,
    body=(
        Phase((Lane(0, const(1), (task("double"),)),)),
        Phase((Lane(0, const(1), (task("five"), task("triple"), task("seven"))),)),
    ),
)
"""The second phase is done with a before it begins with b, on one unit."""
EVERY = {frozenset(x) for x in ("ab", "bc", "ac")}
CASES = [
    (ONE_UNIT, EVERY),  # b is alive while c is made of a
    (FIRST_ONE_THEN_THE_OTHER, {frozenset("ac")}),
    (SIDE_BY_SIDE, EVERY),
    (WAITING, {frozenset("ac")}),
    (WAITING_FOR_ONE_OF_TWO, EVERY),
    (PHASES, {frozenset("ac")}),
    (TWO_PHASES, {frozenset("ac")}),
]


@pytest.mark.parametrize(("step", "expected"), CASES)
def test_values_conflict_unless_one_is_over(step: Launch, expected: set[frozenset[str]]) -> None:
    found = conflicts_within(step, KERNELS, NAMES)
    assert found is not None
    assert np.array_equal(found, found.T)
    assert {frozenset((NAMES[i], NAMES[j])) for i, j in np.argwhere(found) if i != j} == expected


@pytest.mark.parametrize(("step", "expected"), CASES)
def test_what_is_allocated_keeps_the_laws_and_computes(step: Launch, expected: set[frozenset[str]]) -> None:
    made = program(step)
    verify_program(made)
    assert made.storage.buffers["workspace"].bytes == 256 * (3 if expected == EVERY else 2)
    x = np.arange(SIZE, dtype=np.float32)
    for seed in range(10):
        (y,) = run_tasks(made, [x], seed)
        assert np.array_equal(y, 21 * x)


@pytest.mark.parametrize("step", [ONE_UNIT, SIDE_BY_SIDE, WAITING_FOR_ONE_OF_TWO])
def test_two_values_in_one_place_while_both_are_alive_are_refused(step: Launch) -> None:
    made = program(step)
    places = made.storage.placements
    moved = {**places, "b": attrs.evolve(places["b"], offset=places["a"].offset)}
    broken = attrs.evolve(made, storage=attrs.evolve(made.storage, placements=moved))
    refused(lambda: verify_program(broken), turns.TURNS, "'a'", "program", "launch all")


def test_nothing_is_known_of_loops() -> None:
    looped = attrs.evolve(ONE_UNIT, body=(GridControl("i", const(2), "", ONE_UNIT.body),))
    assert conflicts_within(looped, KERNELS, NAMES) is None


def test_what_conflicts_lies_apart() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 2000, 40).tolist()
    conflicts = rng.random((40, 40)) < 0.3
    conflicts |= conflicts.T
    offsets, total = pack_by_conflicts(sizes, conflicts)
    for i, j in np.argwhere(conflicts):
        if i != j:
            assert offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
    assert max(o + s for o, s in zip(offsets, sizes, strict=True)) <= total < sum(sizes)
