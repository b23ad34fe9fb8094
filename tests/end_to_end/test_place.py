"""`control_place = "host"`: which steps a loop and a branch become."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tilewright.compiler import plan_module
from tilewright.config.binding import bind
from tilewright.config.schema import Config
from tilewright.frontend import load
from tilewright.ir.expr import Var, const
from tilewright.ir.program import HostCopy, HostIf, HostLoop, HostSet, HostStep, Program
from tilewright.plugins.manager import Registry

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def typed(name: str, dtype: int = FLOAT, shape: Sequence[int] = (4,)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def plan(nodes: Sequence[onnx.NodeProto], outputs: Sequence[onnx.ValueInfoProto], **weights: object) -> Program:
    inputs = [typed("x"), typed("z"), typed("k", INT, ()), typed("flag", BOOL, ())]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return plan_module(load(model), bind(Config(target="cpu"), Registry())).program


def loop(trip: str, nodes: Sequence[onnx.NodeProto], results: Sequence[str], start: Sequence[str]) -> onnx.NodeProto:
    params = [typed("i", INT, ()), typed("c", BOOL, ()), *(typed(f"s{n}") for n in range(len(start)))]
    on = helper.make_node("Identity", ["c"], ["on"])
    body = helper.make_graph([on, *nodes], "b", params, [typed("on", BOOL, ()), *map(typed, results)])
    outputs = [f"y{n}" for n in range(len(results))]
    return helper.make_node("Loop", [trip, "", *start], outputs, body=body)


def copies(steps: Sequence[HostStep]) -> list[tuple[str, str]]:
    return [(x.source, x.target) for x in steps if isinstance(x, HostCopy)]


def test_a_state_that_is_read_first_is_overwritten_without_a_copy() -> None:
    """The sum reads the state; then the successor, made of the sum alone, is written in its place."""
    nodes = [
        helper.make_node("ReduceSum", ["s0"], ["total"], keepdims=1),
        helper.make_node("Mul", ["total", "z"], ["next"]),
        helper.make_node("Exp", ["next"], ["e"]),
    ]
    program = plan([loop("k", nodes, ["e"], ["x"])], [typed("y0")])
    start, trips = program.body
    assert start == HostCopy("x", "y0")
    assert isinstance(trips, HostLoop)
    assert (trips.limit, trips.trip, trips.condition) == ("k", None, "")
    assert copies(trips.body) == []


def test_a_state_that_is_still_read_is_copied_after_the_trip() -> None:
    nodes = [helper.make_node("MatMul", ["s0", "w"], ["next"])]
    program = plan([loop("three", nodes, ["next"], ["x"])], [typed("y0")], w=np.eye(4, dtype=np.float32), three=3)
    trips = program.body[-1]
    assert isinstance(trips, HostLoop)
    assert trips.trip == const(3)
    assert [target for _, target in copies(trips.body)] == ["y0"]


def test_rows_are_copied_to_their_places_and_the_counter_is_set_where_it_is_read() -> None:
    nodes = [
        helper.make_node("Cast", ["i"], ["f"], to=FLOAT),
        helper.make_node("Add", ["s0", "f"], ["next"]),
        helper.make_node("Neg", ["next"], ["row"]),
    ]
    node = loop("three", nodes, ["next", "row"], ["x"])
    program = plan([node], [typed("y0"), typed("y1", FLOAT, (3, 4))], three=3)
    trips = program.body[-1]
    assert isinstance(trips, HostLoop)
    assert trips.body[0] == HostSet("i", Var(trips.counter))
    (row,) = (x for x in trips.body if isinstance(x, HostCopy) and x.row is not None)
    assert (row.target, row.row) == ("y1", Var(trips.counter))


def test_a_branch_writes_in_the_place_of_its_results() -> None:
    def branch(kind: str) -> onnx.GraphProto:
        return helper.make_graph([helper.make_node(kind, ["x"], ["r"])], "b", [], [typed("r")])

    def passing() -> onnx.GraphProto:
        return helper.make_graph([helper.make_node("Identity", ["z"], ["q"])], "b", [], [typed("q")])

    node = helper.make_node("If", ["flag"], ["y"], then_branch=branch("Exp"), else_branch=passing())
    (step,) = plan([node], [typed("y")]).body
    assert isinstance(step, HostIf)
    assert copies(step.then) == []
    assert step.orelse == (HostCopy("z", "y"),)
