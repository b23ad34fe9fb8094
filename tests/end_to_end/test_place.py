"""`control_place = "host"`: which steps a loop and a branch become."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tilewright.compiler import plan_module
from tilewright.config.binding import bind
from tilewright.config.schema import Config
from tilewright.errors import VerifyError
from tilewright.frontend import load
from tilewright.interpret.task import run_tasks
from tilewright.interpret.tensor import interpret
from tilewright.ir import dtypes
from tilewright.ir.expr import Var, const
from tilewright.ir.module import Module
from tilewright.ir.program import HostCopy, HostIf, HostLoop, HostSet, HostStep, Program, launches
from tilewright.ir.verify import verify_program
from tilewright.ir.verify.tree import tasks_of
from tilewright.planning.place import host
from tilewright.plugins.manager import Registry

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def typed(name: str, dtype: int = FLOAT, shape: Sequence[int] = (4,)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def plan(nodes: Sequence[onnx.NodeProto], outputs: Sequence[onnx.ValueInfoProto], **weights: object) -> Program:
    return planned(nodes, outputs, **weights)[1]


def planned(
    nodes: Sequence[onnx.NodeProto], outputs: Sequence[onnx.ValueInfoProto], **weights: object
) -> tuple[Module, Program]:
    inputs = [typed("x"), typed("z"), typed("k", INT, ()), typed("flag", BOOL, ())]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    module = load(model)
    return module, plan_module(module, bind(Config(target="cpu"), Registry())).program


def loop(trip: str, nodes: Sequence[onnx.NodeProto], results: Sequence[str], start: Sequence[str]) -> onnx.NodeProto:
    params = [typed("i", INT, ()), typed("c", BOOL, ()), *(typed(f"s{n}") for n in range(len(start)))]
    on = helper.make_node("Identity", ["c"], ["on"])
    body = helper.make_graph([on, *nodes], "b", params, [typed("on", BOOL, ()), *map(typed, results)])
    outputs = [f"y{n}" for n in range(len(results))]
    return helper.make_node("Loop", [trip, "", *start], outputs, body=body)


def copies(steps: Sequence[HostStep]) -> list[tuple[str, str]]:
    return [(x.source, x.target) for x in steps if isinstance(x, HostCopy)]


LATE = [
    helper.make_node("ReduceMax", ["s0"], ["most"], keepdims=1),
    helper.make_node("Mul", ["most", "s1"], ["grown"]),
    helper.make_node("Tanh", ["grown"], ["n0"]),
    helper.make_node("ReduceMin", ["s0"], ["least"], keepdims=1),
    helper.make_node("Sub", ["least", "n0"], ["n1"]),
]
"""A body that reads its first state when the successor is written: the minimum is of what it was."""


def doubling(trip: str, body: Sequence[onnx.NodeProto] = LATE, **weights: object) -> tuple[Module, Program]:
    nodes = [loop(trip, body, ["n0", "n1"], ["x", "z"])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "SMALLEST", 0)
        return planned(nodes, [typed("y0"), typed("y1")], **weights)


@pytest.mark.parametrize("trips", [1, 2, 3, 6, 7])
def test_a_state_that_is_read_late_has_two_places_by_turns(trips: int) -> None:
    module, program = doubling("trips", trips=np.int64(trips))
    rng = np.random.default_rng(trips)
    feeds = [rng.standard_normal(v.static_shape()).astype(dtypes.to_numpy(v.dtype)) for v in module.main.body.params]
    for ours, theirs in zip(run_tasks(program, feeds, trips), interpret(module, feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    loops = [x for x in program.body if isinstance(x, HostLoop)]
    if trips == 1:
        assert copies(loops[0].body)
        return
    (pairs,) = loops
    assert pairs.trip == const(trips // 2)
    assert copies(pairs.body) == [], "no state is copied between trips"
    behind = copies(program.body[program.body.index(pairs) :])
    assert len(behind) == trips % 2, "after an odd trip the state is in its other place"
    tasks = [x for launch in launches(pairs.body) for x in tasks_of(launch.body)]
    assert len(tasks) % 2 == 0
    half = len(tasks) // 2
    assert [x.args for x in tasks[:half]] != [x.args for x in tasks[half:]]


def test_a_loop_that_data_end_puts_the_state_back_where_it_ends() -> None:
    on = helper.make_node("Less", ["i", "most_trips"], ["goes_on"])
    made = loop("", [*LATE, on], ["n0", "n1"], ["x", "z"])
    made.attribute[0].g.output[0].name = "goes_on"
    for last in range(4):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(host, "SMALLEST", 0)
            module, program = planned([made], [typed("y0"), typed("y1")], most_trips=np.int64(last))
        (trips,) = (x for x in program.body if isinstance(x, HostLoop))
        (odd,) = (x for x in trips.body if isinstance(x, HostIf))
        assert copies(odd.orelse)
        rng = np.random.default_rng(last)
        feeds = [
            rng.standard_normal(v.static_shape()).astype(dtypes.to_numpy(v.dtype)) for v in module.main.body.params
        ]
        for ours, theirs in zip(run_tasks(program, feeds, last), interpret(module, feeds), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_collapsed_double_buffer_is_refused() -> None:
    """Both places in the same bytes: storage says so before anything runs."""
    _, program = doubling("trips", trips=np.int64(7))
    verify_program(program)
    (pairs,) = (x for x in program.body if isinstance(x, HostLoop))
    ((other, home),) = copies(program.body[program.body.index(pairs) :])
    places = program.storage.placements
    collapsed = attrs.evolve(places[other], buffer=places[home].buffer, offset=places[home].offset)
    storage = attrs.evolve(program.storage, placements={**places, other: collapsed})
    with pytest.raises(VerifyError):
        verify_program(attrs.evolve(program, storage=storage))


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
