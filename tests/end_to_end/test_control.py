"""Models with control flow, compiled for this CPU with the defaults, beside ONNX's reference evaluator."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilewright
from tilewright.compare import compare_outputs
from tilewright.compiler import plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.schema import Config
from tilewright.errors import UnsupportedError
from tilewright.frontend import load
from tilewright.interpret.task import run_tasks
from tilewright.interpret.tensor import interpret
from tilewright.ir import serial
from tilewright.ir.lengths import delivered
from tilewright.ir.module import Module
from tilewright.ir.program import HostStep
from tilewright.ir.text import parse_module, print_module
from tilewright.ir.verify import verify_module
from tilewright.planning.place import host
from tilewright.planning.place.double import doubled
from tilewright.plugins.manager import Registry
from tilewright.runtime.immediate import run
from tilewright.testing.control import control_case
from tilewright.testing.reference import Reference


@cache
def settings() -> Settings:
    return bind(Config(target="cpu"), Registry())


def agree(names: Sequence[str], found: Sequence[Any], wanted: Sequence[Any]) -> None:
    for agreement in compare_outputs(list(names), found, wanted):
        assert agreement.ok, agreement


def check(seed: int) -> None:
    """Interpreted, as tasks on poisoned storage in a random order, and compiled."""
    case = control_case(seed)
    module = load(case.model)
    verify_module(module)
    feeds = [np.asarray(case.feeds[name]) for name in module.input_names]
    wanted = Reference(18).graph(case.model.graph, case.feeds)
    names = [x.name for x in case.model.graph.output]
    cut = partial(delivered, module.output_names, module.lengths)
    agree(names, cut(interpret(module, feeds)), wanted)
    program = plan_module(module, settings()).program
    agree(names, cut(run_tasks(program, feeds, seed)), wanted)
    agree(names, cut(run(program, settings(), feeds)), wanted)


@pytest.mark.parametrize("seed", range(30))
def test_a_random_model_with_control_flow_agrees(seed: int) -> None:
    check(seed)


def test_random_models_agree_with_states_in_two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for larger states: those of these models are small, and would be copied."""
    made: list[bool] = []

    def counted(*args: Any) -> tuple[HostStep, ...] | None:
        found = doubled(*args)
        made.append(found is not None)
        return found

    monkeypatch.setattr(host, "SMALLEST", 0)
    monkeypatch.setattr(host, "doubled", counted)
    for seed in (19, 31, 43, 57, 70, 84, 101):
        check(seed)
    assert sum(made) >= 5


CASES = 330


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("start", range(30, CASES, 50))
def test_many_random_models_with_control_flow_agree(start: int) -> None:
    for seed in range(start, start + 50):
        check(seed)


def features(graph: onnx.GraphProto, feeds: Mapping[str, Any], known: Mapping[str, Any], depth: int) -> Iterator[str]:
    """What is special about the control flow of a graph."""
    known = {**known, **{x.name: numpy_helper.to_array(x) for x in graph.initializer}}
    for node in graph.node:
        attributes = {x.name: helper.get_attribute_value(x) for x in node.attribute}
        graphs = [x.g for x in node.attribute if x.type == onnx.AttributeProto.GRAPH]
        if graphs:
            yield f"depth {depth}"
        if node.op_type == "If":
            yield "known branch" if node.input[0] in known else "branch"
        for inner in graphs:
            given = {x.name for x in inner.input} | {x for n in inner.node for x in n.output}
            captured = {x for n in inner.node for x in n.input if x not in given and x not in known}
            yield f"{node.op_type} captures" if captured else f"{node.op_type} captures nothing"
            yield from features(inner, feeds, known, depth + 1)
        if node.op_type == "Loop":
            trip = node.input[0]
            how = "constant" if trip in known else "input" if trip in feeds else "no"
            yield f"{how} limit {min(int({**known, **feeds}[trip]), 2)}" if trip else "no limit"
            yield "condition" if node.input[1] else "no condition"
            going = next(n for n in graphs[0].node if graphs[0].output[0].name in n.output)
            yield f"goes on by {going.op_type}"
            if len(graphs[0].output) > len(graphs[0].input) - 1:
                certain = going.op_type == "Identity" and (not node.input[1] or node.input[1] in known)
                yield "rows" if certain else "rows that data count"
        if node.op_type == "Scan":
            for axes in ("input_axes", "output_axes"):
                yield from (f"{axes} {axis}" for axis in attributes.get(f"scan_{axes}", []))
            for way in ("input_directions", "output_directions"):
                yield from (f"{way} {x}" for x in attributes.get(f"scan_{way}", []))
            last = {**known, **feeds}.get(node.input[-1])
            if last is not None:
                yield f"length {min(last.shape[attributes.get('scan_input_axes', [0])[-1]], 2)}"


def test_the_random_models_have_every_kind_of_control_flow() -> None:
    counts = Counter(
        feature
        for case in map(control_case, range(CASES))
        for feature in set(features(case.model.graph, case.feeds, {}, 1))
    )
    wanted = [f"{how} limit {n}" for how in ("constant", "input") for n in range(3)]
    wanted += ["no limit", "condition", "no condition", "goes on by Identity", "goes on by Less", "goes on by And"]
    wanted += [f"depth {n}" for n in (1, 2, 3)] + [f"length {n}" for n in range(3)] + ["rows", "rows that data count"]
    wanted += ["branch", "known branch", *(f"{kind} captures" for kind in ("If", "Loop", "Scan"))]
    wanted += [f"{way} {n}" for way in ("input_directions", "output_directions") for n in (0, 1)]
    wanted += [f"input_axes {n}" for n in (-3, 0, 1, 2)] + [f"output_axes {n}" for n in (-1, 0, 1, 2)]
    assert {x: counts[x] for x in wanted if counts[x] < 5} == {}


@pytest.mark.parametrize("seed", range(5))
def test_modules_with_control_flow_have_text_and_documents(seed: int) -> None:
    module = load(control_case(seed).model)
    text = print_module(module)
    plain = re.sub(r"  # .*", "", text)  # where operators come from is a comment, which is not read back
    assert print_module(parse_module(text, module.constants)) == plain
    by_digest = {c.digest: c for c in module.constants.values()}
    assert serial.load(serial.dump(module), Module, by_digest) == module


def typed(name: str, dtype: int, shape: Sequence[int] = ()) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def counting(trip: str, condition: str, limit: int | None = None) -> onnx.ModelProto:
    """A loop that adds its number to a sum and one to a count, up to `limit` trips by its own condition."""
    nodes = [
        helper.make_node("Add", ["sum", "number"], ["sum_out"]),
        helper.make_node("Add", ["count", "one"], ["count_out"]),
        helper.make_node("Less", ["count_out", "limit"], ["on"])
        if limit is not None
        else helper.make_node("Identity", ["going"], ["on"]),
    ]
    params = [typed("number", TensorProto.INT64), typed("going", TensorProto.BOOL)]
    states = [typed(x, TensorProto.INT64) for x in ("sum", "count", "sum_out", "count_out")]
    body = helper.make_graph(nodes, "body", [*params, *states[:2]], [typed("on", TensorProto.BOOL), *states[2:]])
    inputs = [typed("start", TensorProto.INT64)]
    inputs += [typed("k", TensorProto.INT64)] if trip == "k" else []
    inputs += [typed("go", TensorProto.BOOL)] if condition == "go" else []
    weights = {"one": 1, "zero": 0, "limit": limit or 0}
    graph = helper.make_graph(
        [helper.make_node("Loop", [trip, condition, "start", "zero"], ["total", "trips"], body=body)],
        "counting",
        inputs,
        [typed("total", TensorProto.INT64), typed("trips", TensorProto.INT64)],
        [numpy_helper.from_array(np.asarray(v, np.int64), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("condition", ["", "go"])
def test_data_decide_how_often_a_loop_runs(condition: str, limit: int | None) -> None:
    program = tilewright.compile(counting("k", condition, limit), target="cpu", cache=False)
    for k in (0, 1, 2, 7):
        for go in (True, False):
            feeds = {"start": np.asarray(10, np.int64), "k": np.asarray(k, np.int64)}
            feeds |= {"go": np.asarray(go)} if condition else {}
            trips = k if go or not condition else 0
            trips = trips if limit is None else min(trips, limit)
            total, count = program.run(None, feeds)
            assert (int(total), int(count)) == (10 + sum(range(trips)), trips)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_scalars_that_decide_may_have_axes_of_one_element(rank: int) -> None:
    model = counting("k", "go")
    go, k = helper.make_node("Squeeze", ["go_given"], ["go"]), helper.make_node("Squeeze", ["k_given"], ["k"])
    branch = [
        helper.make_graph([helper.make_node(x, ["start"], ["y"])], x, [], [typed("y", TensorProto.INT64)])
        for x in ("Neg", "Abs")
    ]
    either = helper.make_node("If", ["go_given"], ["branch"], then_branch=branch[0], else_branch=branch[1])
    model.graph.node.insert(0, go)
    model.graph.node.insert(0, k)
    model.graph.node.append(either)
    model.graph.output.append(typed("branch", TensorProto.INT64))
    for value in model.graph.input[1:]:
        value.name += "_given"
        value.type.tensor_type.shape.ClearField("dim")
        for _ in range(rank):
            value.type.tensor_type.shape.dim.add().dim_value = 1
    program = tilewright.compile(model, target="cpu", cache=False)
    for trips, goes in ((3, True), (3, False), (0, True)):
        feeds = {"start": np.asarray(10, np.int64), "k_given": np.full((1,) * rank, trips, np.int64)}
        total, count, signed = program.run(None, {**feeds, "go_given": np.full((1,) * rank, goes)})
        done = trips if goes else 0
        assert (int(total), int(count), int(signed)) == (10 + sum(range(done)), done, -10 if goes else 10)


def test_the_largest_integer_is_no_limit() -> None:
    """What PyTorch's exporter writes for `while`."""
    model = counting("most", "", 5)
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(np.iinfo(np.int64).max), "most"))
    total, count = tilewright.compile(model, target="cpu", cache=False).run(None, {"start": np.asarray(1, np.int64)})
    assert (int(total), int(count)) == (11, 5)


def doubling(trip: int | None, outputs: Sequence[str]) -> onnx.ModelProto:
    """A vector is doubled until its largest element reaches a hundred; every state is collected."""
    vector, flag = [TensorProto.FLOAT, [3]], TensorProto.BOOL
    nodes = [
        helper.make_node("Add", ["v", "v"], ["v_out"]),
        helper.make_node("ReduceMax", ["v_out"], ["most"], keepdims=0),
        helper.make_node("Less", ["most", "hundred"], ["on"]),
        helper.make_node("Neg", ["v"], ["row"]),
    ]
    params = [typed("number", TensorProto.INT64), typed("going", flag), typed("v", *vector)]  # type: ignore[arg-type]
    results = [typed("on", flag), typed("v_out", *vector), typed("row", *vector)]  # type: ignore[arg-type]
    body = helper.make_graph(nodes, "body", params, results)
    graph = helper.make_graph(
        [
            helper.make_node("Loop", ["most_trips", "", "x"], ["end", "rows"], body=body),
            helper.make_node("ReduceSum", ["rows"], ["sum"], keepdims=0),
        ],
        "doubling",
        [typed("x", TensorProto.FLOAT, [3])],
        [typed(x, TensorProto.FLOAT, {"rows": ["n", 3], "sum": []}.get(x, [3])) for x in outputs],  # type: ignore[arg-type]
        [numpy_helper.from_array(np.asarray(trip), "most_trips"), numpy_helper.from_array(np.float32(100), "hundred")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_rows_that_data_count_are_as_many_as_there_were_trips() -> None:
    program = tilewright.compile(doubling(10, ["rows", "end"]), target="cpu", cache=False)
    assert [str(x) for x in program.outputs] == ["float32[rows.0, 3]", "float32[3]"]
    assert [step.kind for step in program.manifest.pipeline] == ["native"]
    for start, trips in ((1.0, 7), (60.0, 1), (1e-6, 10), (-1.0, 10)):
        x = np.asarray([start, -2, -3], np.float32)
        rows, end = program.run(None, {"x": x})
        assert rows.tolist() == [(-(2.0**n) * x).tolist() for n in range(trips)]
        assert end.tolist() == (2.0**trips * x).tolist()


def test_what_uses_rows_that_data_count_is_compiled_when_it_runs() -> None:
    model = doubling(10, ["sum", "end"])
    with pytest.raises(UnsupportedError, match=r"ReduceSum node .* reads 'rows', whose shape only a run knows"):
        tilewright.compile(model, target="cpu", cache=False, jit=False)
    program = tilewright.compile(model, target="cpu", cache=False)
    assert [step.kind for step in program.manifest.pipeline] == ["native", "specialise"]
    for start in (1.0, 60.0):
        feeds = {"x": np.asarray([start, -2, -3], np.float32)}
        for ours, theirs in zip(program.run(None, feeds), Reference(17).graph(model.graph, feeds), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def generating(most: int) -> onnx.ModelProto:
    """Greedy generation: a token per trip is appended, until the token 0 or the largest number."""
    kind = TensorProto.INT64
    nodes = [
        helper.make_node("Mul", ["last", "factor"], ["spread"]),
        helper.make_node("Mod", ["spread", "size"], ["next"]),
        helper.make_node("Concat", ["tokens", "next"], ["more"], axis=0),
        helper.make_node("Squeeze", ["next"], ["scalar"]),
        helper.make_node("Greater", ["scalar", "zero"], ["on"]),
    ]
    params = [typed("i", kind), typed("going", TensorProto.BOOL), typed("last", kind, [1])]
    params.append(helper.make_tensor_value_info("tokens", kind, ["n"]))
    results = [typed("on", TensorProto.BOOL), typed("next", kind, [1])]
    results.append(helper.make_tensor_value_info("more", kind, ["n"]))
    body = helper.make_graph(nodes, "body", params, results)
    weights = {"factor": [5], "size": [64], "zero": 0, "most": most, "none": np.zeros(0, np.int64)}
    graph = helper.make_graph(
        [helper.make_node("Loop", ["most", "", "first", "none"], ["end", "tokens_out"], body=body)],
        "generating",
        [typed("first", kind, [1])],
        [typed("end", kind, [1]), helper.make_tensor_value_info("tokens_out", kind, ["n"])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_tokens_are_generated_until_data_say_stop() -> None:
    model = generating(200)
    program = tilewright.compile(model, target="cpu", cache=False)
    counts = []
    for first in (0, 1, 16, 32, 24):
        feeds = {"first": np.asarray([first])}
        _, tokens = program.run(None, feeds)
        assert tokens.tolist() == Reference(17).graph(model.graph, feeds)[1].tolist()
        counts.append(len(tokens))
    assert min(counts) == 1
    assert max(counts) == 200


def test_a_million_trips_end_right() -> None:
    """The stack and the storage are those of one trip."""
    program = tilewright.compile(counting("k", ""), target="cpu", cache=False)
    trips = 1_000_000
    feeds = {"start": np.asarray(0, np.int64), "k": np.asarray(trips, np.int64)}
    total, count = program.run(None, feeds)
    assert (int(total), int(count)) == (trips * (trips - 1) // 2, trips)


def resident_bytes() -> int:
    """The physical memory that this process occupies."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wandering() -> onnx.ModelProto:
    """A loop over a vector that it turns left or right, by a branch on its sign; one state is read late."""
    halves = []
    for name, factor in (("left", "less"), ("right", "more")):
        nodes = [helper.make_node("Mul", ["v", factor], ["scaled"]), helper.make_node("Cos", ["scaled"], [name])]
        halves.append(helper.make_graph(nodes, name, [], [typed(name, TensorProto.FLOAT, [4])]))
    nodes = [
        helper.make_node("ReduceSum", ["v"], ["total"], keepdims=0),
        helper.make_node("Less", ["total", "bound"], ["down"]),
        helper.make_node("If", ["down"], ["turned"], then_branch=halves[0], else_branch=halves[1]),
        helper.make_node("Sub", ["turned", "w"], ["v_out"]),
        helper.make_node("Mul", ["v", "less"], ["w_out"]),
        helper.make_node("Identity", ["going"], ["on"]),
    ]
    vectors = [typed(x, TensorProto.FLOAT, [4]) for x in ("v", "w", "v_out", "w_out")]
    params = [typed("number", TensorProto.INT64), typed("going", TensorProto.BOOL), *vectors[:2]]
    body = helper.make_graph(nodes, "body", params, [typed("on", TensorProto.BOOL), *vectors[2:]])
    weights = {"less": np.float32(0.5), "more": np.float32(1.25), "bound": np.float32(1)}
    graph = helper.make_graph(
        [helper.make_node("Loop", ["k", "", "x", "x"], ["v_end", "w_end"], body=body)],
        "wandering",
        [typed("x", TensorProto.FLOAT, [4]), typed("k", TensorProto.INT64)],
        [typed("v_end", TensorProto.FLOAT, [4]), typed("w_end", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_memory_does_not_grow_with_the_trips() -> None:
    """With a branch in the loop and states of floats: a million trips need what a thousand do."""
    model = wandering()
    program = tilewright.compile(model, target="cpu", cache=False)
    feeds = {"x": np.asarray([0.1, -0.7, 0.4, 1.5], np.float32), "k": np.asarray(1000, np.int64)}
    wanted = Reference(17).graph(model.graph, feeds)
    for ours, theirs in zip(program.run(None, feeds), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    before = resident_bytes()
    results = program.run(None, feeds | {"k": np.asarray(1_000_000, np.int64)})
    grown = resident_bytes() - before
    assert all(np.isfinite(x).all() for x in results)
    assert grown < 1 << 20, f"a byte per trip: {grown}"


def test_a_while_loop_with_a_branch_inside_agrees() -> None:
    """The Collatz sequence: how many steps until one."""
    params = [typed("number", TensorProto.INT64), typed("going", TensorProto.BOOL), typed("n", TensorProto.INT64)]
    half = helper.make_graph(
        [helper.make_node("Div", ["n", "two"], ["halved"])], "even", [], [typed("halved", TensorProto.INT64)]
    )
    more = helper.make_graph(
        [helper.make_node("Mul", ["n", "three"], ["tripled"]), helper.make_node("Add", ["tripled", "one"], ["next"])],
        "odd",
        [],
        [typed("next", TensorProto.INT64)],
    )
    nodes = [
        helper.make_node("Mod", ["n", "two"], ["rest"]),
        helper.make_node("Equal", ["rest", "zero"], ["even"]),
        helper.make_node("If", ["even"], ["new"], then_branch=half, else_branch=more),
        helper.make_node("Greater", ["new", "one"], ["on"]),
        helper.make_node("Add", ["steps", "one"], ["steps_out"]),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [*params, typed("steps", TensorProto.INT64)],
        [typed("on", TensorProto.BOOL), typed("new", TensorProto.INT64), typed("steps_out", TensorProto.INT64)],
    )
    weights = {"zero": 0, "one": 1, "two": 2, "three": 3}
    graph = helper.make_graph(
        [
            helper.make_node("Greater", ["start", "one"], ["first"]),
            helper.make_node("Loop", ["", "first", "start", "zero"], ["last", "count"], body=body),
        ],
        "collatz",
        [typed("start", TensorProto.INT64)],
        [typed("last", TensorProto.INT64), typed("count", TensorProto.INT64)],
        [numpy_helper.from_array(np.asarray(v, np.int64), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    program = tilewright.compile(model, target="cpu", cache=False)
    for start, steps in ((1, 0), (2, 1), (6, 8), (27, 111), (97, 118)):
        last, count = program.run(None, {"start": np.asarray(start, np.int64)})
        assert (int(last), int(count)) == (1, steps)
