"""The task interpreter: legal programs mean the same under every seed, illegal ones are caught by some seed."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.tests.ir import samples
from core.tests.ir.samples import SIZE, TASKS
from core.tests.ir.strategies import modules
from core.tests.ir.test_verify_program import (
    DOUBLE,
    FIVE,
    JUDGE,
    ONE,
    ORDERED,
    PHASES,
    THREE,
    TRIPLE,
    TWO,
    WORK,
    condition_program,
    host,
    one_phase,
    own_part,
    phase3,
    pipeline,
    ring,
    signal0,
    wait0,
    with_storage,
)
from tilewright.errors import InputError, InternalError, VerifyError
from tilewright.interpret.task import equal_parts, run_tasks
from tilewright.interpret.tensor import interpret
from tilewright.ir.choice import Resources, TileChoice
from tilewright.ir.expr import Var, const
from tilewright.ir.group import Group
from tilewright.ir.module import Module
from tilewright.ir.program import (
    UNIT,
    Envelope,
    GridControl,
    HostCopy,
    HostIf,
    HostLoop,
    Kernel,
    Lane,
    Launch,
    Phase,
    Program,
    Task,
)
from tilewright.ir.verify import verify_program
from tilewright.planning.storage import allocate

X = np.arange(SIZE, dtype=np.float32) / 16
SEEDS = range(12)


def right(program: Program, factor: float = 30.0, seeds: range = SEEDS) -> list[bool]:
    """For each seed, whether the output is `factor · x`."""
    return [bool(np.array_equal(run_tasks(program, [X], seed)[0], X * factor)) for seed in seeds]


@pytest.mark.parametrize("kind", ["launches", "phases", "events"])
def test_the_samples_mean_what_their_operators_say(kind: str) -> None:
    assert all(right(samples.program(kind)))


@pytest.mark.parametrize("case", ORDERED)
def test_programs_that_keep_the_laws_give_one_result_under_every_seed(case: str) -> None:
    made = ORDERED[case]()
    results = [run_tasks(made, [X], seed)[0].tobytes() for seed in SEEDS]
    assert not any(b"\xff\xff\xff\xff" in x for x in results), "poison in the output"
    assert len(set(results)) == 1


RACES: dict[str, Callable[[], Program]] = {
    "barrier dropped": lambda: one_phase(DOUBLE, attrs.evolve(TRIPLE, first=(Var(UNIT) + 1) % TASKS), FIVE),
    "wait for one signal too few": lambda: one_phase(
        DOUBLE, signal0, attrs.evolve(wait0, target=const(1)), attrs.evolve(TRIPLE, first=(Var(UNIT) + 1) % TASKS), FIVE
    ),
    "lifetime cut short": lambda: with_storage(samples.program("launches"), {"t": {"last": 0}}),
    "same bytes while both live": lambda: with_storage(
        attrs.evolve(samples.program("launches"), body=(ONE, TWO, attrs.evolve(TWO, name="again"), THREE)),
        {"u": {"offset": 0, "last": 3}, "t": {"last": 2}},
    ),
    "task left out": lambda: attrs.evolve(
        samples.program("launches"),
        body=(attrs.evolve(ONE, body=(Phase((Lane(0, const(TASKS - 1), (DOUBLE,)),)),)), TWO, THREE),
    ),
}


@pytest.mark.parametrize("case", RACES)
def test_what_the_verifier_refuses_goes_wrong_under_some_seed(case: str) -> None:
    made = RACES[case]()
    with pytest.raises(VerifyError):
        verify_program(made)
    assert not all(right(made))


def test_waits_that_are_never_met_are_named() -> None:
    made = one_phase(DOUBLE, attrs.evolve(wait0, target=const(9)), FIVE)
    with pytest.raises(InternalError, match=r"Units \[0, 1, 2, 3\] wait"):
        run_tasks(made, [X])


def test_software_barriers_and_queues_work() -> None:
    assert all(right(ring(const(TASKS))))
    assert all(right(pipeline(1)))


def test_grid_loops_run_while_their_condition_holds() -> None:
    """Each trip multiplies by 6; `judge` looks at x[0] < 1 before each."""
    again = attrs.evolve(DOUBLE, args=("u", "t"))
    body = (Phase((Lane(0, const(TASKS), (again,)),)), WORK[1], JUDGE)
    made = condition_program(JUDGE, *WORK, GridControl("i", const(2), "go", body), phase3)
    assert all(right(made, 30.0 * 36))
    other = X + 2
    assert np.array_equal(run_tasks(made, [other])[0], other * 30)


def test_host_loops_copies_and_branches() -> None:
    loop = HostLoop("i", const(3), "", (TWO, HostCopy("u", "t")))
    made = host(ONE, loop, TWO_AGAIN, THREE, lives={"t": (0, 6), "u": (0, 6)}, last=7)
    verify_program(made)
    assert all(right(made, 2 * 27 * 3 * 5))
    base = condition_program(*WORK)
    judge = Launch("judge", Envelope(TASKS, 32), (JUDGE,))
    twice = Launch(
        "twice", Envelope(TASKS, 32), (Phase((Lane(0, const(TASKS), (attrs.evolve(DOUBLE, args=("t", "u")),)),)),)
    )
    branched = attrs.evolve(base, body=(ONE, judge, HostIf("go", (TWO,), (twice,)), THREE))
    branched = with_storage(branched, {n: {"first": 0, "last": 6} for n in ("x", "y", "t", "u", "go")})
    verify_program(branched)
    assert np.array_equal(run_tasks(branched, [X])[0], X * 30)
    assert np.array_equal(run_tasks(branched, [X + 2])[0], (X + 2) * 20)


TWO_AGAIN = attrs.evolve(TWO, name="again")


def test_units_have_their_own_bytes_of_a_units_buffer() -> None:
    everything = {"first": Var(UNIT), "count": const(1)}
    private = one_phase(*(attrs.evolve(x, **everything) for x in (DOUBLE, TRIPLE, FIVE)))
    private = with_storage(private, buffers={"work": {"owner": "unit", "level": "shared"}})
    # each unit sees its own part of t and u only, which is all that an element-wise kernel needs
    verify_program(private, footprint=own_part)
    assert all(right(private))


def test_inputs_are_checked() -> None:
    with pytest.raises(InputError, match="float32"):
        run_tasks(PHASES, [X.astype(np.float64)])


def test_parts_of_an_output_are_disjoint_and_complete() -> None:
    kernel = PHASES.kernels["double"]
    for tasks in (1, 3, 4, 7, 16, 20):
        cut = attrs.evolve(kernel, choice=TileChoice("sample", {}, Resources(tasks)))
        ranges = [r for t in range(tasks) for r in equal_parts(cut, 1, t)]
        assert [i for low, high in ranges for i in range(low, high)] == list(range(SIZE))


def planned(module: Module, tasks: int, whole: bool) -> Program:
    """Every operator, or the whole module, as a launch of its own, with storage allocated by the core."""
    region = module.main.body
    cuts = [region.ops] if whole else [(op,) for op in region.ops]
    kernels, steps = {}, []
    for number, ops in enumerate(cuts):
        outputs = region.results if whole else ops[0].outputs
        group = Group(f"g{number}", ops, outputs)  # type: ignore[arg-type]
        params = (*group.inputs, *outputs)
        kernels[group.name] = Kernel(group.name, group, TileChoice("sample", {}, Resources(tasks)), params)
        task = Task(group.name, tuple(v.name for v in params), Var(UNIT))
        steps.append(Launch(group.name, Envelope(tasks), (Phase((Lane(0, const(tasks), (task,)),)),)))
    values = {v.name: v for k in kernels.values() for v in k.params}
    weights = [c.value(n) for n, c in module.constants.items()]
    storage = allocate(steps, values, region.params, region.results, weights)
    return Program(region.params, region.results, kernels, tuple(steps), storage, module.constants)


@given(modules(), st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_random_programs_keep_the_laws_and_mean_what_their_module_means(
    module: Module, tasks: int, whole: bool, seed: int
) -> None:
    made = planned(module, tasks, whole)
    verify_program(made)
    (param,) = module.main.body.params
    x = np.random.default_rng(seed).integers(-5, 6, param.static_shape()).astype(param.dtype)
    wanted, found = interpret(module, [x]), run_tasks(made, [x], seed)
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(a, b)
