"""Models whose loops and branches Grinder has placed: on the CPU bit for bit as on the host, and on an emulated GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilewright
from backends.tests.cuda_on_cpu.emulator import emulate
from benchmarks.control_flow.cells import Cell
from benchmarks.control_flow.models import MODELS
from benchmarks.control_flow.prepare import outputs
from tilewright.builder import ModuleBuilder
from tilewright.compare import compare_outputs
from tilewright.compiler import Plan, plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.errors import InputError
from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.ir.lengths import delivered
from tilewright.ir.module import Module
from tilewright.ir.program import GridControl, HostLoop, Launch, Phase, launches
from tilewright.ir.verify.tree import controls_of
from tilewright.plugins.manager import Registry
from tilewright.runtime.immediate import run
from tilewright.testing.control import SHAPE, control_case
from tilewright.testing.placers import WIDE
from tilewright.testing.reference import Reference

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


@cache
def settings(level: str, target: str = "cpu", rammer: bool = False) -> Settings:
    """`level` "": the default placer. Rammer merges whatever can be merged."""
    slots = {"control_place": "grinder"} if level else {}
    options: dict[str, Any] = {"grinder": {"level": level}} if level else {}
    slots |= {"schedule": "rammer"} if rammer else {}
    options |= {"rammer": {"gain": -1e9}} if rammer else {}
    return bind(load_config({"target": target, "slots": slots, "options": options}), Registry(), threads=2)


def agree(names: Sequence[str], found: Sequence[Any], wanted: Sequence[Any]) -> None:
    for agreement in compare_outputs(list(names), found, wanted):
        assert agreement.ok, agreement


def on_the_cpu(module: Module, feeds: Sequence[Any], level: str, rammer: bool = False) -> tuple[Plan, list[Any]]:
    plan = plan_module(module, settings(level, rammer=rammer))
    return plan, run(plan.program, settings(level, rammer=rammer), feeds, threads=2)


def check(seed: int, level: str, rammer: bool = False) -> Plan:
    """Compiled, with the numbers of the default placer, and those of ONNX's reference."""
    case = control_case(seed, shape=WIDE if seed % 2 else SHAPE)
    module = load(case.model)
    feeds = [np.asarray(case.feeds[name]) for name in module.input_names]
    plan, found = on_the_cpu(module, feeds, level, rammer)
    _, host = on_the_cpu(module, feeds, "")
    cut = partial(delivered, module.output_names, module.lengths)
    names = [x.name for x in case.model.graph.output]
    agree(names, cut(found), Reference(18).graph(case.model.graph, case.feeds))
    assert [x.tobytes() for x in cut(found)] == [x.tobytes() for x in cut(host)]
    return plan


@pytest.mark.parametrize(("seed", "level"), [(1, "grid"), (0, "block")])
def test_a_random_model_on_the_cpu(seed: int, level: str) -> None:
    plan = check(seed, level)
    controls = [x for launch in launches(plan.program.steps) for x in controls_of(launch.body)]
    assert any(isinstance(x, GridControl) == (level == "grid") for x in controls)
    assert not any(isinstance(x, HostLoop) for x in plan.program.body)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["grid", "block", "auto"])
def test_more_random_models_on_the_cpu(level: str) -> None:
    for seed in range(4):
        check(seed, level, rammer=seed % 4 == 3)


@pytest.mark.full
@pytest.mark.parametrize("level", ["grid", "block", "auto"])
@pytest.mark.parametrize("start", range(4, 104, 20))
def test_many_random_models_on_the_cpu(start: int, level: str) -> None:
    for seed in range(start, start + 20):
        check(seed, level, rammer=seed % 4 == 3)


def on_a_gpu(seed: int, level: str, rammer: bool = False) -> None:
    case = control_case(seed, shape=WIDE if seed % 2 else SHAPE)
    module = load(case.model)
    chosen = settings(level, "cuda:h200", rammer)
    program = plan_module(module, chosen).program
    found = emulate(program, chosen, [np.asarray(case.feeds[x]) for x in module.input_names], seeds=(0, 1))
    names = [x.name for x in case.model.graph.output]
    cut = delivered(module.output_names, module.lengths, found)
    agree(names, cut, Reference(18).graph(case.model.graph, case.feeds))


def test_a_random_model_on_an_emulated_gpu() -> None:
    on_a_gpu(5, "grid")


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "level"), [(0, "block"), (3, "grid"), (11, "auto")])
def test_more_random_models_on_an_emulated_gpu(seed: int, level: str) -> None:
    on_a_gpu(seed, level, rammer=seed % 4 == 3)


@pytest.mark.full
@pytest.mark.parametrize("level", ["grid", "block"])
@pytest.mark.parametrize("start", range(12, 62, 10))
def test_many_random_models_on_an_emulated_gpu(start: int, level: str) -> None:
    for seed in range(start, start + 10):
        on_a_gpu(seed, level, rammer=seed % 4 == 3)


@pytest.mark.slow(every=3)
@pytest.mark.parametrize(("level", "rammer"), [("auto", False), ("grid", True)])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_models_of_the_benchmark(name: str, level: str, rammer: bool) -> None:
    """Also with Rammer's launches as the bodies."""
    given = Cell(name, 50 if MODELS[name].ratios else 0, 1, small=True).given()
    module = given.model if isinstance(given.model, Module) else load(given.model)
    by_name = dict(given.feeds)
    feeds = list(by_name.values()) if isinstance(given.model, Module) else [by_name[x] for x in module.input_names]
    wanted = outputs(given)
    _, found = on_the_cpu(module, [np.asarray(x) for x in feeds], level, rammer)
    for a, b in zip(delivered(module.output_names, module.lengths, found), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def typed(name: str, dtype: int = FLOAT, shape: Sequence[int] = (40, 33)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def nested() -> onnx.ModelProto:
    """An `If` in a `Loop` that data end in an `If`, on tensors of several tasks."""
    inner_then = helper.make_graph([helper.make_node("Cos", ["sum"], ["p"])], "a", [], [typed("p")])
    inner_else = helper.make_graph([helper.make_node("Mul", ["sum", "half"], ["q"])], "b", [], [typed("q")])
    body = [
        helper.make_node("MatMul", ["state", "w"], ["m"]),
        helper.make_node("Tanh", ["m"], ["t"]),
        helper.make_node("Add", ["t", "state"], ["sum"]),
        helper.make_node("ReduceMean", ["sum"], ["mean"], keepdims=0),
        helper.make_node("Less", ["mean", "zero"], ["below"]),
        helper.make_node("If", ["below"], ["next"], then_branch=inner_then, else_branch=inner_else),
        helper.make_node("Less", ["i", "last"], ["on"]),
    ]
    params = [typed("i", INT, ()), typed("c", BOOL, ()), typed("state")]
    loop = helper.make_graph(body, "loop", params, [typed("on", BOOL, ()), typed("next")])
    then = [helper.make_node("Loop", ["", "true", "x"], ["l"], body=loop), helper.make_node("Neg", ["l"], ["n"])]
    orelse = [helper.make_node("Exp", ["x"], ["e"])]
    outer = helper.make_node(
        "If",
        ["flag"],
        ["y"],
        then_branch=helper.make_graph(then, "then", [], [typed("n")]),
        else_branch=helper.make_graph(orelse, "else", [], [typed("e")]),
    )
    rng = np.random.default_rng(0)
    weights = {"w": (rng.standard_normal((33, 33)) / 6).astype(np.float32), "half": np.float32(0.5)}
    weights |= {"zero": np.float32(0), "true": np.asarray(True)}
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()]
    inputs = [typed("x"), typed("flag", BOOL, ()), typed("last", INT, ())]
    graph = helper.make_graph([outer], "g", inputs, [typed("y")], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("level", "flag"),
    [
        ("grid", True),
        ("block", False),
        *(pytest.param(x, y, marks=pytest.mark.slow) for x, y in (("grid", False), ("block", True), ("auto", True))),
    ],
)
def test_a_branch_in_a_loop_in_a_branch(level: str, flag: bool) -> None:
    model = nested()
    feeds = {"x": np.random.default_rng(1).standard_normal((40, 33)).astype(np.float32), "flag": np.asarray(flag)}
    feeds["last"] = np.asarray(4)
    module = load(model)
    given = [feeds[x] for x in module.input_names]
    plan, found = on_the_cpu(module, given, level)
    wanted = Reference(18).graph(model.graph, feeds)
    agree(["y"], found, wanted)
    if level == "grid":
        (launch,) = (x for x in plan.program.body if isinstance(x, Launch))
        assert len([x for x in controls_of(launch.body) if isinstance(x, GridControl)]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("level", ["grid", "auto"])
def test_a_branch_in_a_loop_in_a_branch_on_an_emulated_gpu(level: str) -> None:
    model, module = nested(), load(nested())
    feeds = {"x": np.random.default_rng(1).standard_normal((40, 33)).astype(np.float32), "flag": np.asarray(True)}
    feeds["last"] = np.asarray(4)
    chosen = settings(level, "cuda:h200")
    program = plan_module(module, chosen).program
    found = emulate(program, chosen, [feeds[x] for x in module.input_names], seeds=(0, 1, 2))
    agree(["y"], found, Reference(18).graph(model.graph, feeds))


def counting(trips: int | None = None) -> onnx.ModelProto:
    """`y = x + 1 + 1 + …`, as often as the input `trips` says, or so many times."""
    nodes = [helper.make_node("Add", ["s", "one"], ["n"]), helper.make_node("Identity", ["c"], ["on"])]
    params = [typed("i", INT, ()), typed("c", BOOL, ()), typed("s", INT, (3,))]
    body = helper.make_graph(nodes, "b", params, [typed("on", BOOL, ()), typed("n", INT, (3,))])
    loop = helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)
    inputs = [typed("x", INT, (3,))] + [typed("trips", INT, ())] * (trips is None)
    known = {"one": 1} | ({} if trips is None else {"trips": trips})
    weights = [numpy_helper.from_array(np.asarray(x, np.int64), name) for name, x in known.items()]
    graph = helper.make_graph([loop], "g", inputs, [typed("y", INT, (3,))], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("level", "trips"),
    [
        *(("grid", x) for x in (0, 1, 1000)),
        *(("block", x) for x in (0, 1, 1_000_000)),
        pytest.param("grid", 1_000_000, marks=pytest.mark.slow),
    ],
)
def test_loops_of_no_trip_one_and_a_million(trips: int, level: str) -> None:
    """On the CPU; the number is known when it runs."""
    module = load(counting())
    x = np.asarray([5, -3, 1 << 40])
    feeds = {"x": x, "trips": np.asarray(trips)}
    plan, (found,) = on_the_cpu(module, [feeds[n] for n in module.input_names], level)
    assert np.array_equal(found, x + trips)
    assert [type(x) for x in plan.program.body] == [Launch]


@pytest.mark.slow
@pytest.mark.parametrize("level", ["grid", "block"])
@pytest.mark.parametrize("trips", [0, 300])
def test_a_limit_that_the_device_reads(trips: int, level: str) -> None:
    module = load(counting())
    feeds = {"x": np.asarray([5, -3, 1 << 40]), "trips": np.asarray(trips)}
    chosen = settings(level, "cuda:h200")
    program = plan_module(module, chosen).program
    (found,) = emulate(program, chosen, [feeds[n] for n in module.input_names], seeds=(0, 1))
    assert np.array_equal(found, feeds["x"] + trips)


def recursive() -> Module:
    """A loop around calls, and a loop and a branch inside a function that calls itself."""
    m = ModuleBuilder(depth=32)

    @m.function([("int64", ()), ("float32", (4,))], [("float32", (4,))])
    def grow(b: Any, n: Any, x: Any) -> Any:
        def more() -> Any:
            folded = b.for_loop(3, lambda i, s: b.op("Tanh", b.op("Add", s, x)), x)
            return b.call(grow, b.op("Sub", n, 1), folded)

        return b.cond(b.op("Less", n, 1), lambda: b.op("Neg", x), more)

    @m.entry([("int64", ()), ("float32", (4,))])
    def main(b: Any, n: Any, x: Any) -> Any:
        return b.for_loop(2, lambda i, s: b.call(grow, n, s), x)

    return m.build()


@pytest.mark.parametrize("level", ["grid", "block"])
def test_recursion_under_a_loop_and_a_loop_inside_recursion(level: str) -> None:
    module = recursive()
    feeds = [np.asarray(4), np.linspace(-1, 1, 4, dtype=np.float32)]
    plan, found = on_the_cpu(module, feeds, level)
    agree(["y"], found, interpret(module, feeds))
    decided = {x.subject: x for x in plan.decisions if x.slot == "control_place"}
    around = [x for x in decided.values() if x.chosen["level"] == "host"]
    assert any("calls grow, which runs on the host" in x.why for x in around)
    assert any("on a CPU calls are steps of the host program" in x.why for x in around)
    assert [x.chosen["level"] for x in decided.values()].count(level) == 1


def test_what_options_ask_for_is_done_or_refused() -> None:
    module = load(counting())
    base: dict[str, Any] = {"target": "cpu", "slots": {"control_place": "grinder"}}

    def placed(threads: int = 2, **options: Any) -> Plan:
        config = load_config({**base, "options": {"grinder": options}})
        return plan_module(module, bind(config, Registry(), threads=threads))

    name = next(x.subject for x in placed().decisions if x.slot == "control_place")
    for level in ("host", "grid", "block"):
        (decision,) = (x for x in placed(levels={name: level}).decisions if x.slot == "control_place")
        assert decision.chosen == {"level": level}
        assert len(decision.costs) == 3
    with pytest.raises(InputError, match="the device has one unit"):
        placed(1, levels={name: "grid"})
    (decision,) = (x for x in placed(1, level="grid").decisions if x.slot == "control_place")
    assert decision.chosen == {"level": "host"}
    assert "the device has one unit" in decision.why


def test_more_trips_than_units_can_count_stay_on_the_host() -> None:
    (decision,) = (
        x for x in plan_module(load(counting(1 << 33)), settings("grid")).decisions if x.slot == "control_place"
    )
    assert decision.chosen == {"level": "host"}
    assert f"it makes {1 << 33} trips" in decision.why


def powers() -> Module:
    """A loop around a product of 16-bit floats, whose fastest kernel on an H200 is none that can be a member."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((1024, 1024)).astype(np.float16), "w")
    half, shape = TensorProto.FLOAT16, (1024, 1024)
    nodes = [helper.make_node("MatMul", ["s", "w"], ["n"]), helper.make_node("Identity", ["c"], ["on"])]
    params = [typed("i", INT, ()), typed("c", BOOL, ()), typed("s", half, shape)]
    body = helper.make_graph(nodes, "b", params, [typed("on", BOOL, ()), typed("n", half, shape)])
    loop = helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)
    inputs = [typed("x", half, shape), typed("trips", INT, ())]
    graph = helper.make_graph([loop], "g", inputs, [typed("y", half, shape)], [weight])
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def test_inside_a_launch_kernels_are_chosen_that_can_be_there() -> None:
    host, grid = (plan_module(powers(), settings(x, "cuda:h200")) for x in ("host", "grid"))
    recipes = [{k.choice.recipe for k in x.program.kernels.values()} for x in (host, grid)]
    assert recipes[0] == {"cuda.wgmma_ring"}
    assert not recipes[1] & {"cuda.wgmma_ring", "cuda.chain_wgmma"}
    (decision,) = (x for x in grid.decisions if x.slot == "control_place")
    assert decision.chosen == {"level": "grid"}
    proposed = {x.chosen["recipe"] for x in grid.decisions if x.slot == "propose"}
    assert proposed == recipes[1], "the record is of what runs"


def test_where_units_are_not_at_work_at_once_a_loop_stays_on_the_host() -> None:
    plan = plan_module(load(counting()), settings("grid", "rocm:mi300x"))
    (decision,) = (x for x in plan.decisions if x.slot == "control_place")
    assert decision.chosen == {"level": "host"}
    assert "mi300x does not promise that units are at work at once" in decision.why


def test_barriers_stand_only_where_values_cross_units() -> None:
    """Kernels of one task follow each other on one unit; a product and what reads all of it do not."""
    case = control_case(0)
    plan = plan_module(load(case.model), settings("grid", "cuda:h200"))
    for launch in launches(plan.program.steps):
        for control in controls_of(launch.body):
            assert isinstance(control, GridControl)
            assert sum(isinstance(x, Phase) for x in control.body) <= 2


def test_the_public_call_takes_the_slot_by_its_name() -> None:
    model = counting()
    config = {"slots": {"control_place": "grinder"}, "options": {"grinder": {"level": "grid"}}}
    program = tilewright.compile(model, target="cpu", config=config, threads=2, cache=False)
    for trips in (3, 0, 7):
        (found,) = program.run(None, {"x": np.zeros(3, np.int64), "trips": np.asarray(trips)})
        assert np.array_equal(found, np.full(3, trips))
