# ruff: noqa: E501  (the table of mutations has one case per line)
"""Recursion inside launches: task by task on poisoned storage, on an emulated GPU, too deep, and what breaks a law."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.persistent import placed
from benchmarks.control_flow.models import rae
from tilewright.builder import FunctionBuilder, ModuleBuilder
from tilewright.compare import compare_outputs
from tilewright.compiler import Plan, build_program, plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.errors import InputError, VerifyError
from tilewright.frontend.legalize.builder import Tensor
from tilewright.interpret.task import run_tasks
from tilewright.interpret.tensor import interpret
from tilewright.ir.expr import Var, const
from tilewright.ir.module import Module
from tilewright.ir.program import (
    Copy,
    Envelope,
    GridCall,
    GridControl,
    HostCall,
    Lane,
    Launch,
    Part,
    Phase,
    Procedure,
    Program,
    Signal,
    Storage,
    Task,
    calls,
    every_call,
    launches,
)
from tilewright.ir.stack import STACK, STATUS
from tilewright.ir.text.programs import print_program
from tilewright.ir.verify import calls as law
from tilewright.ir.verify import flow, frames, program, storage, verify_program
from tilewright.ir.verify.tree import work_of
from tilewright.plugins.manager import Registry
from tilewright.runtime.immediate import loaded, poisoned
from tilewright.testing.recursion import recursion_case
from tilewright_grinder.placement import limits

INT, ROW = ("int64", ()), ("float32", (48,))
LARGE = ("float32", (16384,))
"""Units share the copies of it."""
LEVELS = ("grid", "led", "block")
"""Of the grid, whose units take control together, or follow unit 0; of a block."""


@cache
def settings(level: str = "auto", rewrite: bool = False) -> Settings:
    """`level` "": the default placer."""
    slots = {"control_place": "grinder"} if level else {}
    slots |= {"control_rewrite": "grinder"} if rewrite else {}
    names = {"grid": ("grid", "never"), "led": ("grid", "always")}
    where, lead = names.get(level, (level, "auto"))
    options: dict[str, Any] = {"grinder": {"level": where, "lead": lead}} if level else {}
    return bind(load_config({"target": "cuda:h200", "slots": slots, "options": options}), Registry(), threads=2)


def agree(found: Sequence[Any], wanted: Sequence[Any]) -> None:
    for agreement in compare_outputs([f"y{i}" for i in range(len(wanted))], found, wanted):
        assert agreement.ok, agreement


def inside(plan: Plan) -> list[GridCall]:
    """The calls that launches make, where no other are made."""
    assert not calls(plan.program.steps)
    return [x for x in every_call(plan.program.parts) if isinstance(x, GridCall)]


# Modules.


def twice(row: Any = ROW) -> Module:
    """`f(n, x, same) = tanh(f(n-1, x + same, same) - f(n-2, x, same) · x)`, else `x`: two calls, a result that is an
    argument, and a value that procedures read where it stands."""
    m = ModuleBuilder(depth=8)

    @m.function([INT, row, row], [row])
    def f(b: FunctionBuilder, n: Tensor, x: Tensor, same: Tensor) -> Any:
        def deeper() -> Any:
            first = b.call(f, b.op("Sub", n, 1), b.op("Add", x, same), same)
            second = b.call(f, b.op("Sub", n, 2), x, same)
            return b.op("Tanh", b.op("Sub", first, b.op("Mul", second, x)))

        return b.cond(b.op("Greater", n, 0), deeper, lambda: x)

    @m.entry([INT, row])
    def main(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        return b.op("Div", b.call(f, n, x, b.op("Neg", x)), b.op("Add", b.op("Abs", x), 1.0))

    return m.build()


def wide_first() -> Module:
    """A function whose first kernel reads on all units what they have copied."""
    m = ModuleBuilder(depth=8)

    @m.function([INT, LARGE], [LARGE])
    def f(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        turned = b.op("Transpose", b.op("Reshape", b.op("Tanh", x), np.asarray([128, 128])), perm=[1, 0])
        flat = b.op("Reshape", turned, np.asarray([-1]))
        return b.cond(b.op("Less", n, 1), lambda: flat, lambda: b.op("Add", b.call(f, b.op("Sub", n, 1), flat), x))

    @m.entry([INT, LARGE])
    def main(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        return b.call(f, n, x)

    return m.build()


def under_control() -> Module:
    """A call in a branch in a loop in a branch of the entry, and a loop with calls inside the function."""
    m = ModuleBuilder(depth=16)

    @m.function([INT, ROW], [ROW])
    def grow(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        def more() -> Any:
            def trip(i: Tensor, s: Tensor) -> Any:
                return b.call(grow, b.op("Sub", n, b.op("Add", i, 1)), b.op("Tanh", b.op("Add", s, x)))

            return b.for_loop(b.op("Min", n, 3), trip, x)

        return b.cond(b.op("Less", n, 1), lambda: b.op("Sin", x), more)

    @m.entry([INT, ROW])
    def main(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        def trip(i: Tensor, s: Tensor) -> Any:
            even = b.op("Equal", b.op("Mod", i, 2), 0)
            return b.cond(even, lambda: b.call(grow, n, s), lambda: b.op("Cos", s))

        return b.cond(b.op("Greater", n, 0), lambda: b.for_loop(n, trip, x), lambda: b.op("Neg", x))

    return m.build()


def carried(row: Any = ROW) -> Module:
    """A loop whose state procedures read where it stands, while its successor is made of it."""
    m = ModuleBuilder(depth=8)

    @m.function([INT, row, row], [row])
    def f(b: FunctionBuilder, n: Tensor, x: Tensor, same: Tensor) -> Any:
        def deeper() -> Any:
            return b.op("Sub", b.call(f, b.op("Sub", n, 1), b.op("Add", x, same), same), x)

        return b.cond(b.op("Greater", n, 0), deeper, lambda: x)

    @m.entry([INT, row])
    def main(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        return b.for_loop(4, lambda i, s: b.op("Sub", b.call(f, n, b.op("Cos", s), s), s), x)

    return m.build()


def each_other() -> Module:
    """Two functions that call each other, and a third that calls both, with a loop of which data decide the end."""
    m = ModuleBuilder(depth=24)

    @m.function([INT, ROW], [ROW, ROW])
    def odd(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        def deeper() -> Any:
            return b.call(even, b.op("Sub", n, 1), b.op("Mul", x, 0.5)), x

        return b.cond(b.op("Equal", n, 0), lambda: (x, b.op("Neg", x)), deeper)

    @m.function([INT, ROW], [ROW])
    def even(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        def deeper() -> Any:
            first, second = b.call(odd, b.op("Sub", n, 1), b.op("Add", x, 1.0))
            return b.op("Sub", first, second)

        return b.cond(b.op("Equal", n, 0), lambda: x, deeper)

    @m.function([INT, ROW], [ROW])
    def both(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        def left(i: Tensor, s: Tensor) -> Any:
            return b.op("Less", i, n)

        def trip(i: Tensor, s: Tensor) -> Any:
            return b.op("Add", i, 1), b.op("Tanh", b.call(even, i, s))

        def deeper() -> Any:
            _, folded = b.while_loop(left, trip, np.asarray(0), x)
            return b.call(both, b.op("Sub", n, 2), folded)

        return b.cond(b.op("Less", n, 1), lambda: x, deeper)

    @m.entry([INT, ROW])
    def main(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        return b.call(both, n, x)

    return m.build()


X = np.linspace(-1, 1, 48, dtype=np.float32)
MODULES: dict[str, tuple[Callable[[], Module], int]] = {
    "twice": (twice, 4),
    "twice, large": (partial(twice, LARGE), 2),
    "wide first": (wide_first, 2),
    "under control": (under_control, 3),
    "under control, nothing to do": (under_control, 0),
    "carried": (carried, 3),
    "each other": (each_other, 5),
}


def case(name: str) -> tuple[Module, list[Any]]:
    """A module and its inputs."""
    make, count = MODULES[name]
    module = make()
    size = module.main.body.params[1].static_shape()
    return module, [np.asarray(count), np.linspace(-1, 1, *size, dtype=np.float32)]


# Meaning.


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", MODULES)
def test_launches_call_and_get_the_same(name: str, level: str) -> None:
    module, feeds = case(name)
    plan, host = (plan_module(module, settings(x)) for x in (level, ""))
    assert inside(plan)
    wanted = run_tasks(host.program, feeds)
    agree(wanted, interpret(module, feeds))
    for seed in range(3):
        for found, same in zip(run_tasks(plan.program, feeds, seed), wanted, strict=True):
            assert found.tobytes() == same.tobytes()


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("twice", "grid"),
        ("twice, large", "grid"),
        ("wide first", "grid"),
        ("under control", "grid"),
        ("twice, large", "led"),
        ("wide first", "led"),
        ("under control", "led"),
        ("each other", "led"),
        ("each other", "block"),
        *(
            pytest.param(*x, marks=pytest.mark.slow)
            for x in (("twice", "block"), ("twice, large", "block"), ("under control", "block"), ("each other", "grid"))
        ),
    ],
)
def test_an_emulated_gpu_calls_too(name: str, level: str) -> None:
    module, feeds = case(name)
    plan = plan_module(module, settings(level))
    agree(emulate(plan.program, settings(level), feeds, seeds=(0, 1, 2)), interpret(module, feeds))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", [0, 3, *(pytest.param(x, marks=pytest.mark.slow) for x in range(4, 10))])
def test_random_recursion_on_an_emulated_gpu(seed: int, level: str) -> None:
    one = recursion_case(seed)
    plan = plan_module(one.module, settings(level))
    assert inside(plan)
    found = emulate(plan.program, settings(level), one.feeds, seeds=(0, 1))
    agree(found, [x.astype(np.float32) for x in one.wanted])


@pytest.mark.parametrize("level", [*LEVELS, "auto"])
def test_the_tree_of_the_benchmark(level: str) -> None:
    given = rae.build(hidden=64, leaves=8)
    plan = plan_module(given.model, settings(level, rewrite=True))
    (launch,) = plan.program.body
    assert isinstance(launch, Launch)
    assert launch.led == (level in ("led", "auto"))
    feeds = [np.asarray(given.feeds[x]) for x in ("left", "right", "words")]
    agree(
        emulate(plan.program, settings(level, rewrite=True), feeds, seeds=(0, 1)), [reference(given).astype(np.float32)]
    )


def reference(given: Any) -> Any:
    """The code of the root, in float64 by Python's own recursion."""
    left, right, words = (given.feeds[x] for x in ("left", "right", "words"))
    w, bias = (given.params[x].astype(np.float64) for x in ("w", "bias"))

    def encode(node: int) -> Any:
        if left[node] < 0:
            return words[node : node + 1].astype(np.float64)
        return np.tanh(np.concatenate([encode(left[node]), encode(right[node])], axis=1) @ w + bias)

    return encode(len(left) - 1)


@pytest.mark.parametrize(
    ("level", "name", "held"),
    [("grid", "twice", 0), ("grid", "under control", 0), ("grid", "under control", 2), ("led", "under control", 0)],
)
def test_calls_for_which_a_unit_has_no_room_are_kept_in_memory(
    level: str, name: str, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, feeds = case(name)
    sites = len(inside(plan_module(module, settings(level))))
    monkeypatch.setattr(limits, "STACK", 4 * sites + 4 * 3 * held)
    plan = plan_module(module, settings(level))
    (launch,) = (x for x in launches(plan.program.steps) if x.calls)
    assert launch.envelope.stack_bytes < 100
    agree(emulate(plan.program, settings(level), feeds, seeds=(0, 1, 2)), interpret(module, feeds))


@pytest.mark.parametrize("level", ["grid", "led"])
def test_what_other_units_do_may_depend_on_the_trip(level: str) -> None:
    """In each trip the units take others of a kernel's tasks."""
    module, feeds = carried(LARGE), case("twice, large")[1]
    made = plan_module(module, settings(level)).program

    def turned(part: Part, loop: str) -> Part:
        if isinstance(part, GridControl):
            return attrs.evolve(part, body=tuple(turned(x, part.counter) for x in part.body))
        lanes = part.lanes if isinstance(part, Phase) and loop else ()
        if len(lanes) != 1 or lanes[0].units == const(1):
            return part
        units, (item, *_) = lanes[0].units, lanes[0].items
        if isinstance(item, Copy):
            return part
        assert isinstance(item, Task)
        other = attrs.evolve(item, first=(item.first + Var(loop)) % units)
        return Phase((attrs.evolve(lanes[0], items=(other,)),))

    (launch,) = made.body
    assert isinstance(launch, Launch)
    assert launch.led == (level == "led")
    launch = attrs.evolve(launch, body=tuple(turned(x, "") for x in launch.body))
    assert launch != made.body[0]
    made = attrs.evolve(made, body=(launch,))
    verify_program(made)
    agree(emulate(made, settings(level), feeds, seeds=(0, 1)), interpret(module, feeds))


# Depth.


@pytest.mark.parametrize("level", LEVELS)
def test_one_call_too_many_ends_the_launch(level: str) -> None:
    module = twice()
    plan = plan_module(module, settings(level))
    wanted = "The recursion of function 'f' is deeper than its bound of 8 calls"
    agree(emulate(plan.program, settings(level), [np.asarray(7), X]), interpret(module, [np.asarray(7), X]))
    for run in (
        lambda: run_tasks(plan.program, [np.asarray(8), X]),
        lambda: emulate(plan.program, settings(level), [np.asarray(8), X]),
    ):
        with pytest.raises(InputError, match=wanted):
            run()


@pytest.mark.gpu
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", MODULES)
def test_a_gpu_calls_and_says_what_was_too_deep(name: str, level: str) -> None:
    module, feeds = case(name)
    plan, wanted = plan_module(module, settings(level)), interpret(module, feeds)
    outputs = [poisoned(v.static_shape(), v.dtype) for v in plan.program.outputs]
    with loaded(plan.program, settings(level)) as program:
        for _ in range(200):
            program.run(feeds, outputs)
            agree(outputs, wanted)
        if name == "twice":
            with pytest.raises(InputError, match="'f' is deeper than its bound of 8 calls"):
                program.run([np.asarray(9), *feeds[1:]], outputs)
            program.run(feeds, outputs)
            agree(outputs, wanted)


# Levels.


def test_the_host_may_have_the_control_around_launches_that_make_calls(tmp_path: Path) -> None:
    module, feeds = case("under control")
    names = [x.subject for x in plan_module(module, settings("grid")).decisions if x.slot == "control_place"]
    inner = plan_module(module, settings("grid")).decisions
    called = {x.subject for x in inner if x.slot == "control_place" and x.chosen.get("inside") == "grow"}
    levels = {x: "grid" if x in called or x.startswith("grow") else "host" for x in names}
    options = {"grinder": {"levels": levels}}
    config = {"target": "cuda:h200", "slots": {"control_place": "grinder"}, "options": options}
    chosen = bind(load_config(config), Registry(), threads=2)
    made = plan_module(module, chosen).program
    assert not calls(made.steps)
    assert len([x for x in launches(made.steps) if x.calls]) == 1
    agree(emulate(made, chosen, feeds), interpret(module, feeds))
    assert not build_program(made, chosen, tmp_path).data["capturable"]


def test_a_gpu_keeps_no_recursion_on_the_host_that_reads_back_its_decisions() -> None:
    given = rae.build()
    plan = plan_module(given.model, settings("auto", rewrite=True))
    decided = {x.subject: x for x in plan.decisions if x.slot == "control_place"}
    assert {x.chosen["level"] for x in decided.values()} == {"grid"}
    costs = decided["encode"].costs
    assert len(costs) == 3
    assert costs[0] == min(costs)
    assert [x.chosen.get("inside") for x in decided.values()].count("encode") == 3


def test_what_is_asked_for_calls_is_done_or_refused() -> None:
    def planned(levels: dict[str, str]) -> Plan:
        config = {
            "target": "cuda:h200",
            "slots": {"control_place": "grinder"},
            "options": {"grinder": {"levels": levels}},
        }
        return plan_module(twice(), bind(load_config(config), Registry(), threads=2))

    names = [x.subject for x in planned({}).decisions if x.slot == "control_place" and "inside" not in x.chosen]
    assert [type(x) for x in every_call(planned({names[0]: "host"}).program.body)] == [HostCall]
    for level, units in (("grid", 2), ("block", 1)):
        (launch,) = (x for x in launches(planned({names[0]: level}).program.steps) if x.calls)
        assert min(launch.envelope.units, 2) == units
        assert launch.envelope.cooperative == (level == "grid")
    branch = next(x.subject for x in planned({}).decisions if x.subject.startswith("branch"))
    with pytest.raises(InputError, match=f"{branch}, which is inside, is kept on the host"):
        planned({names[0]: "grid", branch: "host"})


def test_what_is_called_has_kernels_that_can_be_in_a_launch() -> None:
    """A product of 16-bit floats, whose fastest kernel on an H200 is none that can be a member."""
    m, half = ModuleBuilder(depth=4), ("float16", (1024, 1024))

    @m.function([INT, half], [half])
    def f(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        def deeper() -> Any:
            return b.op("MatMul", b.call(f, b.op("Sub", n, 1), x), x)

        return b.cond(b.op("Greater", n, 0), deeper, lambda: x)

    @m.entry([INT, half])
    def main(b: FunctionBuilder, n: Tensor, x: Tensor) -> Any:
        return b.call(f, n, x)

    host, grid = (plan_module(m.build(), settings(x)) for x in ("host", "grid"))
    recipes = [{k.choice.recipe for k in x.program.kernels.values()} for x in (host, grid)]
    assert "cuda.wgmma_ring" in recipes[0]
    assert not recipes[1] & {"cuda.wgmma_ring", "cuda.chain_wgmma"}
    assert inside(grid)
    proposed = {x.chosen["recipe"] for x in grid.decisions if x.slot == "propose"}
    assert proposed == recipes[1], "the record is of what runs"


@pytest.mark.slow
def test_a_launch_that_makes_calls_becomes_machine_code(tmp_path: Path) -> None:
    plan = plan_module(rae.build().model, settings("auto", rewrite=True))
    data = build_program(plan.program, settings("auto", rewrite=True), tmp_path).data
    facts = data["kernels"]["tw_persistent_0"]
    assert (facts["spill_bytes"], facts["stack_bytes"]) == (0, 0)
    assert data["capturable"]
    assert (data["status"], data["procedures"]) == (STATUS, ["encode"])


# Laws.


@cache
def base() -> Program:
    """A procedure that ends with a barrier of its own, with calls on values of many units and of one."""
    return plan_module(twice(LARGE), settings("grid")).program


@cache
def tree() -> Program:
    """A procedure in which calls are made in haste."""
    return plan_module(rae.build(hidden=64, leaves=8).model, settings("grid", rewrite=True)).program


@cache
def loop_around() -> Program:
    """A launch with a loop around a call."""
    return plan_module(carried(), settings("grid")).program


def changed(made: Program, of: Callable[[Part], Sequence[Part]]) -> Program:
    """The program with other parts in the place of each part of its procedures."""

    def every(parts: Sequence[Part]) -> Iterator[Part]:
        for part in parts:
            if isinstance(part, GridControl):
                part = attrs.evolve(part, body=tuple(every(part.body)), orelse=tuple(every(part.orelse)))
            yield from of(part)

    procedures = {n: attrs.evolve(p, body=tuple(every(p.parts))) for n, p in made.procedures.items()}
    return placed(attrs.evolve(made, procedures=procedures))


def flagged(made: Program, **flags: bool) -> Program:
    """The program with flags of every call in a procedure set."""
    return changed(made, lambda x: [attrs.evolve(x, **flags)] if isinstance(x, GridCall) else [x])


def enveloped(made: Program, **fields: Any) -> Program:
    def other(step: Any) -> Any:
        envelope: Envelope = attrs.evolve(step.envelope, **fields)
        return attrs.evolve(step, envelope=envelope) if isinstance(step, Launch) and step.calls else step

    return attrs.evolve(made, body=tuple(map(other, made.body)))


def launched(made: Program, **fields: Any) -> Program:
    return attrs.evolve(made, body=tuple(attrs.evolve(x, **fields) for x in made.body))


def without(made: Program, *buffers: str) -> Program:
    kept = {n: x for n, x in made.storage.buffers.items() if n not in buffers}
    return attrs.evolve(made, storage=Storage(kept, made.storage.placements))


def called_by_host(made: Program) -> Program:
    def other(step: Any) -> Any:
        call = step.calls[0] if isinstance(step, Launch) and step.calls else None
        return step if call is None else HostCall(call.procedure, call.args, call.results, call.reads)

    return attrs.evolve(made, body=tuple(map(other, made.body)))


def body_of(made: Program, change: Callable[[tuple[Part, ...]], Sequence[Part]]) -> Program:
    (name, found), *_ = made.procedures.items()
    procedure = attrs.evolve(found, body=tuple(change(found.parts)))
    return placed(attrs.evolve(made, procedures={**made.procedures, name: procedure}))


def over(made: Program) -> Program:
    """A result of a call in a loop, in a launch, in bytes that the procedure writes."""
    (launch,) = (x for x in made.body if isinstance(x, Launch) and x.calls)
    (state,) = launch.calls[0].results
    (procedure,) = made.procedures.values()
    places = made.storage.placements
    inner = next(n for n in _names(procedure.parts) if places[n].buffer == "workspace")
    moved = attrs.evolve(places[state], buffer="workspace", offset=places[inner].offset)
    return attrs.evolve(made, storage=Storage(made.storage.buffers, {**places, state: moved}))


def _names(parts: Sequence[Part]) -> list[str]:
    return [name for work in work_of(parts) for name in getattr(work, "args", ())]


def shorter(made: Program) -> Program:
    """What a procedure decides by lives to the decision, and not to the next barrier."""
    (procedure,) = made.procedures.values()
    control = next(x for x in procedure.parts if isinstance(x, GridControl))
    place = made.storage.placements[control.condition]
    placements = {**made.storage.placements, control.condition: attrs.evolve(place, last=place.first + 1)}
    return attrs.evolve(made, storage=Storage(made.storage.buffers, placements))


def mixed(made: Program) -> Program:
    (name, found), *_ = made.procedures.items()
    (launch,) = (x for x in made.body if isinstance(x, Launch) and x.calls)
    other = Procedure("other", (), (attrs.evolve(launch, name="again"),), ())
    return attrs.evolve(made, procedures={name: found, "other": other})


def looped(parts: Sequence[Part]) -> Sequence[Part]:
    return (*parts[:-1], GridControl("last", const(1), "", tuple(parts[-1:])))


CALL = next(x for x in every_call(tree().procedures["encode"].parts) if isinstance(x, GridCall))
FIRST = next(x for x in tree().procedures["encode"].parts if isinstance(x, Phase))
MUTATIONS: dict[str, tuple[Callable[[], Program], str]] = {
    "no barrier at the end of a procedure": (lambda: body_of(tree(), lambda x: [*x[:-1], attrs.evolve(x[-1], body=())]), law.SETTLED),
    "a loop at the end of a procedure": (lambda: body_of(base(), looped), law.SETTLED),
    "no barrier behind a phase of all units that makes an argument": (lambda: flagged(base(), early=True), law.HASTE),
    "no barrier between results and a phase of all units": (lambda: flagged(base(), late=True), law.HASTE),
    "no barrier in front of a phase of all units in a procedure": (lambda: body_of(flagged(tree(), direct=True), lambda x: [attrs.evolve(FIRST, lanes=(attrs.evolve(FIRST.lanes[0], units=const(2)),)), *x[1:]]), law.HASTE),
    "no barrier between a phase of all units and a procedure": (lambda: changed(tree(), lambda x: [x] if not isinstance(x, Phase) or len(x.lanes) != 1 or x.lanes[0].units == const(1) else [x, attrs.evolve(CALL, early=True, direct=True, late=False)]), law.HASTE),
    "no barrier at the end of a branch": (lambda: changed(tree(), lambda x: [x] if not isinstance(x, GridControl) else [attrs.evolve(x, orelse=x.orelse[:2])]), law.HASTE),
    "a decision that may be written over": (lambda: shorter(tree()), storage.LIVE),
    "a value of a launch where a call writes": (lambda: over(loop_around()), frames.ACROSS),
    "no room for where calls return to": (lambda: enveloped(tree(), stack_bytes=0), law.ROOM),
    "no place to say that a call was too deep": (lambda: without(tree(), STATUS), law.ROOM),
    "no stack": (lambda: without(tree(), STACK), law.ROOM),
    "units without a barrier": (lambda: enveloped(tree(), cooperative=False), program.RESIDENT),
    "fewer units than a procedure has": (lambda: enveloped(tree(), units=3), "a unit of the envelope stands in at most one lane of a phase"),
    "too few threads for what is called": (lambda: enveloped(tree(), threads=32), program.ENVELOPE),
    "a leading unit without others at work": (lambda: launched(tree(), led=True, envelope=attrs.evolve(tree().body[0].envelope, cooperative=False, units=1)), law.LED),
    "a leading unit in a launch without calls": (lambda: launched(tree(), led=True, body=(Phase(()),)), law.LED),
    "a signal in a launch that a unit leads": (lambda: launched(tree(), led=True, events={"e": 1}, body=(Phase((Lane(0, const(1), (Signal("e", const(0)),)),)), *tree().body[0].body)), law.LED),
    "a call of the host": (lambda: called_by_host(tree()), law.LEVEL),
    "a procedure of the host whose launch calls": (lambda: mixed(tree()), law.LEVEL),
    "a call of nothing": (lambda: changed(tree(), lambda x: [attrs.evolve(x, procedure="f")] if isinstance(x, GridCall) else [x]), program.CALL),
    "a call without an argument": (lambda: changed(tree(), lambda x: [attrs.evolve(x, args=())] if isinstance(x, GridCall) else [x]), program.CALL),
    "an argument that nothing has made": (lambda: changed(tree(), lambda x: [Phase(())] if isinstance(x, Phase) and _makes(x, CALL.args[0]) else [x]), flow.WRITTEN),
    "a result that no branch makes": (lambda: changed(tree(), lambda x: [attrs.evolve(x, orelse=(Phase(()),))] if isinstance(x, GridControl) else [x]), flow.WRITTEN),
}  # fmt: skip


def _makes(phase: Phase, name: str) -> bool:
    return any(name in getattr(item, "args", ()) for lane in phase.lanes for item in lane.items)


def test_the_programs_keep_the_laws() -> None:
    for made in (base(), tree(), loop_around()):
        verify_program(made)
    call = "grid call encode(gather_2) -> (encode_1) reads (left, right, words) early direct late"
    assert call in print_program(tree())
    assert (CALL.early, CALL.direct, CALL.late) == (True, True, True)
    calls_of = [x for x in every_call(base().procedures["f"].parts) if isinstance(x, GridCall)]
    assert not any(x.direct for x in calls_of)


@pytest.mark.parametrize("case", MUTATIONS)
def test_what_breaks_a_law_is_refused(case: str) -> None:
    make, broken = MUTATIONS[case]
    made = make()
    with pytest.raises(VerifyError) as caught:
        verify_program(made)
    assert f"Law: {broken}." in str(caught.value)
