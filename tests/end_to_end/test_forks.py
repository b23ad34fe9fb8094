# ruff: noqa: E501  (the table of mutations has one case per line)
"""Calls side by side on parts of a launch: task by task on poisoned storage, on an emulated GPU, and what breaks a law."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.persistent import placed
from benchmarks.control_flow.models import rae
from tests.end_to_end.test_calls_in_launches import INT, LARGE, ROW, agree, changed, launched, reference
from tilewright.builder import FunctionBuilder, ModuleBuilder
from tilewright.compiler import Plan, build_program, plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.errors import InputError, VerifyError
from tilewright.frontend.legalize.builder import Tensor
from tilewright.interpret.task import run_tasks
from tilewright.interpret.tensor import interpret
from tilewright.ir.module import Module
from tilewright.ir.program import Fork, GridCall, Launch, Program, Storage, forks, launches
from tilewright.ir.subgrids import Subgrids
from tilewright.ir.text.programs import print_program
from tilewright.ir.verify import calls as of_calls
from tilewright.ir.verify import flow, frames, verify_program
from tilewright.ir.verify import forks as law
from tilewright.plugins.manager import Registry
from tilewright.runtime.immediate import loaded, poisoned
from tilewright.testing.recursion import recursion_case
from tilewright_backends.build.cuda.led import records_of
from tilewright_grinder.placement.waits import folded


@cache
def settings(levels: int | str = "auto", lead: str = "auto", **slots: str) -> Settings:
    options = {"grinder": {"level": "grid", "forks": levels, "lead": lead}}
    config = {"target": "cuda:h200", "slots": {"control_place": "grinder", **slots}, "options": options}
    return bind(load_config(config), Registry(), threads=2)


def widths(plan: Plan) -> list[int]:
    """Numbers of calls of the forks in a program."""
    return [len(x.calls) for x in forks((*plan.program.parts,))]


def divided(plan: Plan) -> Subgrids:
    """How the launch that makes calls divides its units."""
    (launch,) = (x for x in launches(plan.program.steps) if x.calls)
    assert launch.led
    return launch.subgrids


# Modules.


def three(row: Any = ROW) -> Module:
    """`f(n, x, same) = y - mean(y) + same` of `y = tanh(f(n-1, x+same) - f(n-2, x·same) · f(n-3, x))`, else `x`."""
    m = ModuleBuilder(depth=8)

    @m.function([INT, row, row], [row])
    def f(b: FunctionBuilder, n: Tensor, x: Tensor, same: Tensor) -> Any:
        def deeper() -> Any:
            first = b.call(f, b.op("Sub", n, 1), b.op("Add", x, same), same)
            second = b.call(f, b.op("Sub", n, 2), b.op("Mul", x, same), same)
            third = b.call(f, b.op("Sub", n, 3), x, same)
            y = b.op("Tanh", b.op("Sub", first, b.op("Mul", second, third)))
            return b.op("Add", b.op("Sub", y, b.op("ReduceMean", y, np.asarray([0]), keepdims=1)), same)

        return b.cond(b.op("Greater", n, 0), deeper, lambda: x)

    @m.entry([INT, row])
    def main(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        return b.call(f, n, x, b.op("Neg", x))

    return m.build()


def chained() -> Module:
    """The argument of each call is what another one gives."""
    m = ModuleBuilder(depth=8)

    @m.function([INT, ROW], [ROW])
    def f(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        def deeper() -> Any:
            less = b.op("Sub", n, 1)
            return b.call(f, less, b.op("Tanh", b.call(f, less, b.op("Cos", x))))

        return b.cond(b.op("Greater", n, 0), deeper, lambda: x)

    @m.entry([INT, ROW])
    def main(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        return b.call(f, n, x)

    return m.build()


def mixed(row: Any = ROW) -> Module:
    """Two calls, of which the first one's result is used before the second is made, then three that need both."""
    m = ModuleBuilder(depth=8)

    @m.function([INT, row], [row])
    def f(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        def deeper() -> Any:
            less = b.op("Sub", n, 1)
            first = b.call(f, less, b.op("Sin", x))
            turned = b.op("Mul", first, x)
            second = b.call(f, b.op("Sub", n, 2), b.op("Cos", x))
            both = b.op("Add", turned, second)
            again = [b.call(f, b.op("Sub", n, 3), b.op(op, both)) for op in ("Tanh", "Sin", "Neg")]
            return b.op("Sub", b.op("Add", again[0], again[1]), again[2])

        return b.cond(b.op("Greater", n, 0), deeper, lambda: x)

    @m.entry([INT, row])
    def main(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        return b.call(f, n, x)

    return m.build()


def looped() -> Module:
    """Forks in a loop of which data decide the end, in a function, and in one of the entry."""
    m = ModuleBuilder(depth=8)

    @m.function([INT, ROW], [ROW])
    def f(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        def deeper() -> Any:
            def trip(i: Tensor, s: Tensor) -> Any:
                less = b.op("Sub", n, b.op("Add", i, 1))
                return b.op("Sub", b.call(f, less, b.op("Sin", s)), b.call(f, b.op("Sub", less, 1), b.op("Cos", s)))

            return b.for_loop(b.op("Min", n, 3), trip, x)

        return b.cond(b.op("Greater", n, 0), deeper, lambda: x)

    @m.entry([INT, ROW])
    def main(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        def trip(i: Tensor, s: Tensor) -> Any:
            return b.op("Tanh", b.op("Sub", b.call(f, b.op("Sub", n, i), s), b.call(f, i, b.op("Cos", s))))

        return b.for_loop(n, trip, x)

    return m.build()


def each_other() -> Module:
    """Two functions with forks of each other's calls, one of which gives two results."""
    m = ModuleBuilder(depth=8)

    @m.function([INT, ROW], [ROW, ROW])
    def odd(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        def deeper() -> Any:
            less = b.op("Sub", n, 1)
            return b.call(even, less, b.op("Mul", x, 0.5)), b.call(even, b.op("Sub", less, 1), x)

        return b.cond(b.op("Less", n, 1), lambda: (x, b.op("Neg", x)), deeper)

    @m.function([INT, ROW], [ROW])
    def even(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        def deeper() -> Any:
            less = b.op("Sub", n, 1)
            first, second = b.call(odd, less, b.op("Add", x, 1.0))
            third, fourth = b.call(odd, b.op("Sub", less, 1), b.op("Sin", x))
            return b.op("Tanh", b.op("Sub", b.op("Mul", first, third), b.op("Mul", second, fourth)))

        return b.cond(b.op("Less", n, 1), lambda: x, deeper)

    @m.entry([INT, ROW])
    def main(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        return b.call(even, n, x)

    return m.build()


MODULES: dict[str, tuple[Callable[[], Module], int, list[int]]] = {
    "three": (three, 4, [3]),
    "three, large": (partial(three, LARGE), 2, [3]),
    "chained": (chained, 3, []),
    "mixed": (mixed, 4, [2, 3]),
    "mixed, large": (partial(mixed, LARGE), 3, [2, 3]),
    "looped": (looped, 3, [2, 2]),
    "each other": (each_other, 5, [2, 2]),
}


def case(name: str) -> tuple[Module, list[Any]]:
    """A module and its inputs."""
    make, count, _ = MODULES[name]
    module = make()
    size = module.main.body.params[1].static_shape()
    return module, [np.asarray(count), np.linspace(-1, 1, *size, dtype=np.float32)]


# Trees.


def tree(leaves: int, kind: str, seed: int = 0, hidden: int = 16) -> Any:
    """The benchmark with a tree of its own: "random", or a "chain" of which each node has a leaf."""
    given = rae.build(seed=seed, hidden=hidden, leaves=leaves)
    if kind == "chain":
        rng, last = np.random.default_rng(seed), 0
        for node in range(leaves, 2 * leaves - 1):
            both = [last, node - leaves + 1]
            rng.shuffle(both)
            given.feeds["left"][node], given.feeds["right"][node] = both
            last = node
    return given


def fed(given: Any) -> list[Any]:
    return [np.asarray(given.feeds[x]) for x in ("left", "right", "words")]


@pytest.mark.parametrize(
    ("leaves", "kind", "levels"),
    [
        (2, "random", 1),
        (9, "random", 2),
        (12, "random", "auto"),
        (9, "chain", 3),
        *(
            pytest.param(*x, marks=pytest.mark.slow)
            for x in ((16, "chain", 5), (16, "random", 4), (24, "random", 3), (24, "chain", 1), (33, "random", 5))
        ),
    ],
)
def test_trees(leaves: int, kind: str, levels: int | str) -> None:
    given = tree(leaves, kind, seed=leaves)
    chosen = settings(levels, control_rewrite="grinder")
    plan = plan_module(given.model, chosen)
    assert divided(plan).levels
    wanted = [reference(given).astype(np.float32)]
    for seed in range(3):
        agree(run_tasks(plan.program, fed(given), seed), wanted)
    agree(emulate(plan.program, chosen, fed(given), seeds=range(4)), wanted)


# Meaning.


@pytest.mark.parametrize("levels", [1, 2, 0])
@pytest.mark.parametrize("name", MODULES)
def test_calls_side_by_side_give_the_same(name: str, levels: int) -> None:
    module, feeds = case(name)
    plan = plan_module(module, settings(levels))
    found = sorted(MODULES[name][2])
    assert sorted(widths(plan)) == (found if levels else [])
    wanted = interpret(module, feeds)
    for seed in range(3):
        agree(run_tasks(plan.program, feeds, seed), wanted)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("three", "auto"),
        ("three, large", 2),
        ("mixed, large", 2),
        ("looped", 1),
        ("each other", 1),
        *(
            pytest.param(*x, marks=pytest.mark.slow)
            for x in (("mixed", 1), ("chained", 1), ("three, large", 1), ("three, large", 3), ("mixed, large", "auto"))
        ),
    ],
)
def test_an_emulated_gpu_divides_its_blocks(name: str, levels: int | str) -> None:
    module, feeds = case(name)
    chosen = settings(levels)
    plan = plan_module(module, chosen)
    assert bool(divided(plan).levels) == bool(MODULES[name][2])
    agree(emulate(plan.program, chosen, feeds, seeds=range(4)), interpret(module, feeds))


@pytest.mark.parametrize("levels", [1, 4])
@pytest.mark.parametrize("seed", [1, 5, *(pytest.param(x, marks=pytest.mark.slow) for x in range(10, 20))])
def test_random_recursion(seed: int, levels: int) -> None:
    one = recursion_case(seed)
    wanted = [x.astype(np.float32) for x in one.wanted]
    plan = plan_module(one.module, settings(levels))
    agree(run_tasks(plan.program, one.feeds), wanted)
    agree(emulate(plan.program, settings(levels), one.feeds, seeds=(0, 1)), wanted)


@pytest.mark.parametrize(("units", "levels"), [(2, 3), (3, 3), (5, 2), pytest.param(7, 5, marks=pytest.mark.slow)])
def test_forks_divide_no_more_units_than_there_are(units: int, levels: int) -> None:
    given = tree(9, "random", hidden=48)
    chosen = settings(2, control_rewrite="grinder")
    made = plan_module(given.model, chosen).program
    (launch,) = made.body
    assert isinstance(launch, Launch)
    assert launch.envelope.units > 16
    fewer = regridded(made, units, Subgrids(levels, (2,)))
    verify_program(fewer)
    wanted = [reference(given).astype(np.float32)]
    agree(run_tasks(fewer, fed(given)), wanted)
    agree(emulate(fewer, chosen, fed(given), seeds=range(3)), wanted)


def regridded(made: Program, units: int, how: Subgrids) -> Program:
    """The program on other units, of which each does the tasks of several."""

    def fold(part: Any) -> Any:
        return [folded(part, units)] if hasattr(part, "lanes") else [part]

    made = changed(made, fold)
    (launch,) = made.body
    assert isinstance(launch, Launch)
    envelope = attrs.evolve(launch.envelope, units=units)
    return placed(attrs.evolve(made, body=(attrs.evolve(launch, envelope=envelope, subgrids=how),)))


@pytest.mark.parametrize("led", [True, False])
def test_a_launch_that_does_not_divide_its_units_makes_the_calls_of_forks_too(led: bool) -> None:
    module, feeds = case("three, large")
    made = calling(plan_module(module, settings(1)).program, led=led, subgrids=Subgrids())
    verify_program(made)
    agree(run_tasks(made, feeds), interpret(module, feeds))
    agree(emulate(made, settings(1), feeds, seeds=(0, 1)), interpret(module, feeds))


def test_tables_have_the_places_that_the_law_counts() -> None:
    for made in (base(), small(), plan_module(mixed(), settings(1)).program):
        (launch,) = (x for x in launches(made.steps) if x.calls)
        bodies = (launch.body, *(x.parts for x in made.procedures.values()))
        wanted = sum(of_calls.places(x, True, True) for x in bodies)
        assert records_of(launch, made).sites == wanted


# Depth.


def lopsided() -> Module:
    """`f(n, k, x)`: the one call recurses `n` deep, the other `k`."""
    m = ModuleBuilder(depth=6)

    @m.function([INT, INT, ROW], [ROW])
    def f(b: FunctionBuilder, n: Tensor, k: Tensor, x: Tensor) -> Any:
        def deeper() -> Any:
            zero = b.op("Sub", n, n)
            first = b.call(f, b.op("Sub", n, 1), zero, b.op("Sin", x))
            return b.op("Sub", first, b.call(f, b.op("Sub", k, 1), zero, b.op("Cos", x)))

        return b.cond(b.op("Greater", n, 0), deeper, lambda: x)

    @m.entry([INT, INT, ROW])
    def main(b: FunctionBuilder, n: Tensor, k: Tensor, x: Tensor) -> Any:
        return b.call(f, n, k, x)

    return m.build()


X = np.linspace(-1, 1, 48, dtype=np.float32)


@pytest.mark.parametrize("units", [2, 5])
@pytest.mark.parametrize(("n", "k"), [(2, 6), (6, 2), (7, 7)])
def test_one_call_too_many_on_a_part_ends_the_launch(n: int, k: int, units: int) -> None:
    module, chosen = lopsided(), settings(1)
    made = regridded(plan_module(module, chosen).program, units, Subgrids(2, (2,)))
    deep = [np.asarray(n), np.asarray(k), X]
    wanted = "The recursion of function 'f' is deeper than its bound of 6 calls"
    for run in (lambda: run_tasks(made, deep), lambda: emulate(made, chosen, deep, seeds=range(4))):
        with pytest.raises(InputError, match=wanted):
            run()
    shallow = [np.asarray(5), np.asarray(4), X]
    agree(emulate(made, chosen, shallow, seeds=range(3)), interpret(module, shallow))


def counting() -> Module:
    """`f(n, k, x)` adds up what its calls give, and counts the smaller one down to 0: without end, if it gives nothing."""
    m = ModuleBuilder(depth=6)

    @m.function([INT, INT, INT], [INT])
    def f(b: FunctionBuilder, n: Tensor, k: Tensor, x: Tensor) -> Any:
        def deeper() -> Any:
            first, second = (b.call(f, b.op("Sub", y, 1), b.op("Sub", n, n), x) for y in (n, k))

            def left(i: Tensor, s: Tensor) -> Any:
                return b.op("Not", b.op("Equal", i, 0))

            def trip(i: Tensor, s: Tensor) -> Any:
                return b.op("Sub", i, 1), b.op("Add", s, 1)

            return b.while_loop(left, trip, b.op("Min", first, second), b.op("Add", first, second))[1]

        return b.cond(b.op("Greater", n, 0), deeper, lambda: x)

    @m.entry([INT, INT, INT])
    def main(b: FunctionBuilder, n: Tensor, k: Tensor, x: Tensor) -> Any:
        return b.call(f, n, k, x)

    return m.build()


@pytest.mark.parametrize(("n", "k"), [(6, 2), (3, 6), (6, 6)])
def test_nothing_is_done_with_what_a_call_that_was_too_deep_gives(n: int, k: int) -> None:
    """Whether it is over before those beside it, which count to 500 meanwhile, or after them. Else this has no end."""
    module, chosen = counting(), settings(2)
    made = plan_module(module, chosen).program
    with pytest.raises(InputError, match="bound of 6 calls"):
        emulate(made, chosen, [np.asarray(x) for x in (n, k, 500)], seeds=range(6))
    fine = [np.asarray(x) for x in (4, 5, 2)]
    agree(emulate(made, chosen, fine, seeds=range(3)), interpret(module, fine))


# Placement.


def test_a_plan_says_how_deep_its_forks_are(tmp_path: Path) -> None:
    given = rae.build(hidden=64, leaves=8)
    plans = {x: plan_module(given.model, settings(x, control_rewrite="grinder")) for x in (0, 3, "auto")}
    assert [divided(plans[x]).levels for x in (0, 3)] == [0, 3]
    shape = next(x.chosen for x in plans[3].decisions if x.slot == "schedule" and "forks" in x.chosen)
    assert shape["forks"] == 3
    assert "led, forks of 2 in 3 levels" in print_program(plans[3].program)
    assert "fork {" in print_program(plans[3].program)
    cost = {x: next(d.costs[0] for d in plans[x].decisions if d.subject == "encode") for x in plans}
    assert divided(plans["auto"]).levels > 0
    assert cost["auto"] <= cost[3] < cost[0]
    data = build_program(plans[3].program, settings(3, control_rewrite="grinder"), tmp_path).data
    assert data["capturable"]


def test_without_a_leading_unit_there_are_no_forks() -> None:
    plan = plan_module(three(), settings(2, lead="never"))
    assert not widths(plan)
    with pytest.raises(InputError, match="forks"):
        plan_module(three(), settings(9))


@pytest.mark.slow
def test_the_benchmark_at_full_size_becomes_machine_code(tmp_path: Path) -> None:
    plan = plan_module(rae.build().model, settings("auto", control_rewrite="grinder"))
    data = build_program(plan.program, settings("auto", control_rewrite="grinder"), tmp_path).data
    facts = data["kernels"]["tw_persistent_0"]
    assert divided(plan).levels > 1
    assert (facts["spill_bytes"], facts["stack_bytes"]) == (0, 0)


@pytest.mark.gpu
@pytest.mark.parametrize("levels", [1, 2, 3, 5])
def test_a_gpu_divides_its_blocks(levels: int) -> None:
    chosen = settings(levels, control_rewrite="grinder")
    for leaves, kind in ((64, "random"), (40, "chain"), (2, "random")):
        given = tree(leaves, kind, seed=levels, hidden=256)
        plan = plan_module(given.model, chosen)
        outputs = [poisoned(v.static_shape(), v.dtype) for v in plan.program.outputs]
        with loaded(plan.program, chosen) as program:
            for _ in range(200):
                program.run(fed(given), outputs)
                agree(outputs, [reference(given).astype(np.float32)])


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODULES)
def test_a_gpu_runs_calls_side_by_side(name: str) -> None:
    module, feeds = case(name)
    plan, wanted = plan_module(module, settings(2)), interpret(module, feeds)
    outputs = [poisoned(v.static_shape(), v.dtype) for v in plan.program.outputs]
    with loaded(plan.program, settings(2)) as program:
        for _ in range(200):
            program.run(feeds, outputs)
            agree(outputs, wanted)
        if name == "three":
            with pytest.raises(InputError, match="'f' is deeper than its bound of 8 calls"):
                program.run([np.asarray(9), *feeds[1:]], outputs)
            program.run(feeds, outputs)
            agree(outputs, wanted)


# Laws.


@cache
def base() -> Program:
    return plan_module(three(LARGE), settings(2)).program


@cache
def small() -> Program:
    return plan_module(rae.build(hidden=64, leaves=8).model, settings(2, control_rewrite="grinder")).program


def forked(made: Program, change: Callable[[tuple[GridCall, ...]], Sequence[GridCall]]) -> Program:
    """The program with other calls in each fork."""
    return changed(made, lambda x: [Fork(tuple(change(x.calls)))] if isinstance(x, Fork) else [x])


def moved(made: Program, name: str, like: str) -> Program:
    """The program with a value in the place of another one."""
    places = made.storage.placements
    there = attrs.evolve(places[name], buffer=places[like].buffer, offset=places[like].offset)
    return attrs.evolve(made, storage=Storage(made.storage.buffers, {**places, name: there}))


def owned(made: Program, owner: Any) -> Program:
    """The program with what regions own in a buffer of another owner."""
    buffers = {n: attrs.evolve(x, owner=owner) if x.owner == "region" else x for n, x in made.storage.buffers.items()}
    return attrs.evolve(made, storage=Storage(buffers, made.storage.placements))


def enveloped(made: Program, **fields: Any) -> Program:
    body = tuple(attrs.evolve(x, envelope=attrs.evolve(x.envelope, **fields)) if x.calls else x for x in made.body)
    return attrs.evolve(made, body=body)


def calling(made: Program, **fields: Any) -> Program:
    """The program with other fields of the launch that makes calls."""
    body = tuple(attrs.evolve(x, **fields) if isinstance(x, Launch) and x.calls else x for x in made.body)
    return attrs.evolve(made, body=body)


CALLS = next(iter(forks(small().parts))).calls
REGIONAL = next(n for n, x in base().storage.placements.items() if x.buffer == "regions")
MUTATIONS: dict[str, tuple[Callable[[], Program], str]] = {
    "a call that takes what another gives": (lambda: forked(small(), lambda x: [x[0], attrs.evolve(x[1], reads=(*x[1].reads, x[0].results[0]))]), law.FORK),
    "a call that gives what another takes": (lambda: moved(small(), CALLS[1].args[0], CALLS[0].results[0]), "values whose lifetimes overlap share no byte"),
    "calls that give the same": (lambda: forked(small(), lambda x: [x[0], attrs.evolve(x[1], results=x[0].results)]), law.FORK),
    "a call that takes a result as its argument": (lambda: forked(base(), lambda x: [x[0], attrs.evolve(x[1], args=(x[1].args[0], x[0].results[0])), x[2]]), law.FORK),
    "one call": (lambda: forked(small(), lambda x: x[:1]), law.FORK),
    "no barrier in front of a call": (lambda: forked(small(), lambda x: [attrs.evolve(x[0], direct=True), x[1]]), law.FORK),
    "no barrier behind a call": (lambda: forked(small(), lambda x: [x[0], attrs.evolve(x[1], late=True)]), law.FORK),
    "nobody leads": (lambda: calling(small(), led=False), law.SUBGRIDS),
    "forks of no calls": (lambda: launched(small(), subgrids=Subgrids(2, ())), law.SUBGRIDS),
    "forks of one call": (lambda: launched(small(), subgrids=Subgrids(2, (1, 2))), law.SUBGRIDS),
    "forks of too many calls": (lambda: launched(small(), subgrids=Subgrids(1, (2, 65))), law.SUBGRIDS),
    "forks in no order": (lambda: launched(small(), subgrids=Subgrids(1, (3, 2))), law.SUBGRIDS),
    "no room for sub-grids": (lambda: enveloped(small(), stack_bytes=4 * 8), of_calls.ROOM),
    "no room for where sub-grids meet": (lambda: launched(small(), subgrids=Subgrids(5, (2,))), "an event is one of its launch"),
    "what calls write stands there once": (lambda: owned(base(), "program"), law.APART),
    "an argument where other calls write": (lambda: moved(base(), next(iter(forks(base().parts))).calls[1].args[1], REGIONAL), frames.ACROSS),
    "a result where other calls write": (lambda: moved(base(), next(iter(forks(base().parts))).calls[1].results[0], REGIONAL), frames.ACROSS),
    "an argument that nothing makes": (lambda: changed(small(), lambda x: [] if hasattr(x, "lanes") and CALLS[1].args[0] in str(x) else [x]), flow.WRITTEN),
}  # fmt: skip


def test_the_programs_keep_the_laws() -> None:
    for made in (base(), small()):
        verify_program(made)
    assert base().regions == 9
    frame = base().storage.buffers["frames"]
    assert base().size_of(frame) == frame.bytes * 8 * 9


@pytest.mark.parametrize("case", MUTATIONS)
def test_what_breaks_a_law_is_refused(case: str) -> None:
    make, broken = MUTATIONS[case]
    made = make()
    with pytest.raises(VerifyError) as caught:
        verify_program(made)
    assert f"Law: {broken}" in str(caught.value)
