"""Loops and branches that Grinder leaves to the device in a graph: when, when not, and with the numbers of the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.tests.cuda_on_cpu.graphs import on_the_cpu
from backends.tests.graphs import CONDITIONAL, node_types
from benchmarks.control_flow.cells import Cell
from benchmarks.control_flow.models import MODELS
from benchmarks.control_flow.prepare import outputs
from tests.end_to_end.test_placement import agree, counting, nested, recursive
from tilewright.compiler import Plan, plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.errors import InputError
from tilewright.frontend import load
from tilewright.ir.graphs import capturable, graph_control
from tilewright.ir.lengths import delivered
from tilewright.ir.module import Module
from tilewright.ir.program import HostIf, HostLoop, launches, reads_back
from tilewright.plugins.manager import Registry
from tilewright.runtime.immediate import loaded, poisoned
from tilewright.testing.control import SHAPE, control_case
from tilewright.testing.placers import WIDE
from tilewright.testing.reference import Reference

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def settings(target: str = "cuda:h200", rammer: bool = False, **options: Any) -> Settings:
    slots = {"control_place": "grinder", "schedule": "rammer"} if rammer else {"control_place": "grinder"}
    config: dict[str, Any] = {"target": target, "slots": slots, "options": {"grinder": options}}
    config["options"] |= {"rammer": {"gain": -1e9}} if rammer else {}
    return bind(load_config(config), Registry(), threads=2)


def placed(module: Module, target: str = "cuda:h200", **options: Any) -> Plan:
    return plan_module(module, settings(target, **options))


def levels(plan: Plan) -> list[str]:
    return [x.chosen["level"] for x in plan.decisions if x.slot == "control_place"]


def reasons(plan: Plan) -> str:
    return "\n".join(x.why for x in plan.decisions if x.slot == "control_place")


def captured_run(native: Any, plan: Plan, feeds: list[Any]) -> list[Any]:
    found = [poisoned(v.static_shape(), v.dtype) for v in plan.program.outputs]
    native.run([np.ascontiguousarray(x) for x in feeds], found)
    return found


def check(seed: int, level: str, rammer: bool = False) -> None:
    """Beside ONNX's reference, as a graph that was captured with other data."""
    case = control_case(seed, shape=WIDE if seed % 2 else SHAPE)
    module = load(case.model)
    chosen = settings(level=level, rammer=rammer)
    plan = plan_module(module, chosen)
    names = [x.name for x in case.model.graph.output]
    with on_the_cpu(plan.program, chosen) as native:
        for sign in (-1, -1, 1):
            feeds = {k: sign * v if v.dtype == np.float32 else v for k, v in case.feeds.items()}
            found = captured_run(native, plan, [np.asarray(feeds[x]) for x in module.input_names])
            cut = delivered(module.output_names, module.lengths, found)
        agree(names, cut, Reference(18).graph(case.model.graph, feeds))
        marks = sum(1 for _ in graph_control(plan.program.body))
        assert (marks > 0) == (CONDITIONAL in node_types(native))


def test_a_random_model_in_a_graph() -> None:
    check(29, "graph")


@pytest.mark.slow
@pytest.mark.parametrize("rammer", [False, True])
@pytest.mark.parametrize("seed", [3, 11, 14])
def test_more_random_models_in_a_graph(seed: int, rammer: bool) -> None:
    check(seed, "graph", rammer)


@pytest.mark.full
@pytest.mark.parametrize("level", ["graph", "auto"])
@pytest.mark.parametrize("start", range(40, 120, 10))
def test_many_random_models_in_a_graph(start: int, level: str) -> None:
    for seed in range(start, start + 10):
        check(seed, level, rammer=seed % 4 == 3)


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"rae"}))
def test_the_models_of_the_benchmark_in_a_graph(name: str) -> None:
    given = Cell(name, 50 if MODELS[name].ratios else 0, 1, small=True).given()
    assert not isinstance(given.model, Module)
    module, chosen = load(given.model), settings(level="graph")
    plan = plan_module(module, chosen)
    assert set(levels(plan)) == {"graph"}
    feeds = [np.asarray(dict(given.feeds)[x]) for x in module.input_names]
    with on_the_cpu(plan.program, chosen) as native:
        for _ in range(2):
            found = captured_run(native, plan, feeds)
        assert CONDITIONAL in node_types(native)
    for a, b in zip(delivered(module.output_names, module.lengths, found), outputs(given), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_everything_or_nothing_is_in_the_graph() -> None:
    """A branch in a loop in a branch, each at level graph; one of them on the host keeps all of them there."""
    module = load(nested())
    plan = placed(module, level="graph")
    assert levels(plan) == ["graph"] * 3
    assert capturable(plan.program.body)
    names = [x.subject for x in plan.decisions if x.slot == "control_place"]
    for name in names:
        torn = placed(module, level="graph", levels={name: "host"})
        assert levels(torn) == ["host"] * 3
        assert not list(graph_control(torn.program.body))
        assert "the host decides" in reasons(torn)
    with pytest.raises(InputError, match="which is not possible: the host decides elsewhere"):
        placed(module, levels={names[-1]: "host", names[0]: "graph"})


def test_a_launch_inside_the_graph_may_hold_what_is_inside() -> None:
    module = load(nested())
    inner, loop, outer = (x.subject for x in placed(module, level="graph").decisions if x.slot == "control_place")
    for level in ("grid", "block"):
        plan = placed(module, levels={outer: "graph", loop: level})
        assert [type(x) for x in graph_control(plan.program.body)] == [HostIf]
        assert sorted(levels(plan)) == sorted(["graph", level, level])
    plan = placed(module, levels={outer: "graph", loop: "graph", inner: "block"})
    assert [type(x) for x in graph_control(plan.program.body)] == [HostIf, HostLoop]
    with pytest.raises(InputError, match="is kept at level graph"):
        placed(module, levels={outer: "grid", loop: "graph"})


NESTED = {"y": "graph", "l": "grid"}
"""Levels of the branch around a loop of the model `nested`."""


def nested_feeds(flag: bool, last: int) -> dict[str, Any]:
    x = np.random.default_rng(1).standard_normal((40, 33)).astype(np.float32)
    return {"x": x, "flag": np.asarray(flag), "last": np.asarray(last)}


def check_nested(native: Any, plan: Plan, module: Module) -> None:
    for flag, last in ((False, 4), (False, 4), (True, 4), (True, 0), (False, 2), (True, 7)):
        feeds = nested_feeds(flag, last)
        found = captured_run(native, plan, [feeds[x] for x in module.input_names])
        agree(["y"], found, Reference(18).graph(nested().graph, feeds))
    assert node_types(native).count(CONDITIONAL) == 1


def test_a_launch_whose_units_wait_for_each_other_in_a_node_of_the_graph() -> None:
    module, chosen = load(nested()), settings(levels=NESTED)
    plan = plan_module(module, chosen)
    assert any(x.envelope.cooperative for x in launches(plan.program.body))
    with on_the_cpu(plan.program, chosen) as native:
        check_nested(native, plan, module)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{"level": "graph"}, {"levels": NESTED}, {"levels": {"y": "graph", "l": "block"}}])
def test_a_branch_in_a_loop_in_a_branch_in_a_graph_on_the_device(options: dict[str, Any]) -> None:
    module, chosen = load(nested()), settings(**options)
    plan = plan_module(module, chosen)
    with loaded(plan.program, chosen) as native:
        check_nested(native, plan, module)


@pytest.mark.parametrize("target", ["cpu", "rocm:mi300x", "cuda:v100"])
def test_devices_without_such_graphs(target: str) -> None:
    module = load(counting())
    plan = placed(module, target, level="graph")
    assert levels(plan) == ["host"]
    assert "has loops and branches" in reasons(plan)
    (name,) = (x.subject for x in plan.decisions if x.slot == "control_place")
    with pytest.raises(InputError, match=r"level graph of .* has loops and branches"):
        placed(module, target, levels={name: "graph"})
    assert "graph" not in reasons(placed(module, target))


def test_a_program_that_calls_has_no_graph() -> None:
    plan = placed(recursive(), level="graph")
    assert set(levels(plan)) == {"host"}
    assert "the host calls functions" in reasons(plan)
    assert not list(graph_control(plan.program.steps))


def heavy(trips: int | None = None) -> onnx.ModelProto:
    """Products whose fastest kernels cannot be part of a launch, one after the other, a number of times."""
    rng = np.random.default_rng(0)
    half, shape = TensorProto.FLOAT16, (1024, 1024)
    weights = [numpy_helper.from_array(rng.standard_normal(shape).astype(np.float16), f"w{n}") for n in range(3)]
    weights += [] if trips is None else [numpy_helper.from_array(np.asarray(trips), "trips")]
    nodes = [helper.make_node("MatMul", [f"s{n}", f"w{n}"], [f"s{n + 1}"]) for n in range(3)]
    nodes.append(helper.make_node("Identity", ["c"], ["on"]))
    value = helper.make_tensor_value_info
    params = [value("i", INT, ()), value("c", BOOL, ()), value("s0", half, shape)]
    body = helper.make_graph(nodes, "b", params, [value("on", BOOL, ()), value("s3", half, shape)])
    loop = helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)
    inputs = [value("x", half, shape)] + [value("trips", INT, ())] * (trips is None)
    graph = helper.make_graph([loop], "g", inputs, [value("y", half, shape)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_what_no_launch_can_hold_goes_into_the_graph_by_itself() -> None:
    """The trips are known when it runs only: the host would read them back, and launches are cheaper in a graph."""
    plan = placed(load(heavy()))
    (decision,) = (x for x in plan.decisions if x.slot == "control_place")
    costs = dict(
        zip([decision.chosen["level"], *(x["level"] for x in decision.alternatives)], decision.costs, strict=True)
    )
    assert decision.chosen == {"level": "graph"}
    assert costs["graph"] < min(costs["host"], costs["grid"])
    assert not reads_back(plan.program.body)


def test_a_loop_of_known_trips_is_written_out_unless_it_is_too_long() -> None:
    short, long = placed(load(heavy(40))), placed(load(heavy(200_000)))
    assert (levels(short), levels(long)) == (["host"], ["graph"])
    assert not list(graph_control(short.program.body))
    assert capturable(short.program.body)
    assert capturable(long.program.body)


def test_a_loop_inside_that_a_graph_has_written_out() -> None:
    """The branch reads a value; the loop on its side makes three trips, which stand in the node."""
    value = helper.make_tensor_value_info
    half, shape = TensorProto.FLOAT16, (1024, 1024)
    weight = numpy_helper.from_array(np.zeros(shape, np.float16), "w")
    trips = numpy_helper.from_array(np.asarray(3), "trips")
    nodes = [helper.make_node("MatMul", ["s", "w"], ["n"]), helper.make_node("Identity", ["c"], ["on"])]
    params = [value("i", INT, ()), value("c", BOOL, ()), value("s", half, shape)]
    body = helper.make_graph(nodes, "b", params, [value("on", BOOL, ()), value("n", half, shape)])
    loop = helper.make_node("Loop", ["trips", "", "x"], ["l"], body=body)
    branch = helper.make_node(
        "If",
        ["flag"],
        ["y"],
        then_branch=helper.make_graph([loop], "then", [], [value("l", half, shape)]),
        else_branch=helper.make_graph([helper.make_node("Neg", ["x"], ["m"])], "else", [], [value("m", half, shape)]),
    )
    inputs = [value("x", half, shape), value("flag", BOOL, ())]
    graph = helper.make_graph([branch], "g", inputs, [value("y", half, shape)], [weight, trips])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    plan = placed(load(model), levels={"y": "graph", "l": "host"})
    assert sorted(levels(plan)) == ["graph", "host"]
    assert [type(x) for x in graph_control(plan.program.body)] == [HostIf]


@pytest.mark.gpu
@pytest.mark.parametrize("level", ["graph", "auto"])
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"rae"}))
def test_the_models_of_the_benchmark_in_a_graph_on_the_device(name: str, level: str) -> None:
    given = Cell(name, 50 if MODELS[name].ratios else 0, 1, small=True).given()
    assert not isinstance(given.model, Module)
    module, chosen = load(given.model), settings(level=level)
    plan = plan_module(module, chosen)
    feeds = [np.asarray(dict(given.feeds)[x]) for x in module.input_names]
    with loaded(plan.program, chosen) as native:
        for _ in range(3):
            found = captured_run(native, plan, feeds)
            for a, b in zip(delivered(module.output_names, module.lengths, found), outputs(given), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
