"""Control flow in the front end: what becomes a region, what is known beforehand, what is refused and how.

That regions mean what ONNX says is shown by ONNX's node tests and by random models in `tests/end_to_end`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from core.tests.frontend.models import model, node
from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.ir.expr import const
from tilewright.ir.lengths import delivered
from tilewright.ir.module import Module
from tilewright.ir.ops import If, Loop, TensorOp
from tilewright.ir.verify import verify_module

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
X = np.array([1, -2, 3], np.float32)


def typed(name: str, dtype: int = FLOAT, shape: Sequence[int] = (3,)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def declared(made: onnx.ModelProto) -> onnx.ModelProto:
    """The model with outputs of one dimension of any size, where inference knows nothing."""
    for info in made.graph.output:
        if not info.type.tensor_type.HasField("shape"):
            info.CopyFrom(typed(info.name, FLOAT, ["n"]))  # type: ignore[list-item]
    return made


def body(nodes: Sequence[onnx.NodeProto], results: Sequence[onnx.ValueInfoProto], states: int = 1) -> onnx.GraphProto:
    """A loop's body with the parameters `i`, `c` and `s0`, `s1`, …"""
    params = [typed("i", INT, ()), typed("c", BOOL, ()), *(typed(f"s{n}") for n in range(states))]
    return helper.make_graph(nodes, "body", params, results)


DOUBLING = body(
    [helper.make_node("Add", ["s0", "s0"], ["d"]), helper.make_node("Identity", ["c"], ["on"])],
    [typed("on", BOOL, ()), typed("d")],
)


def looping(graph: onnx.GraphProto, trip: Any = None, going: Any = None, **more: Any) -> onnx.ModelProto:
    """A model of one loop over `x`. A trip count or a condition that is a string is an input of that name."""
    inputs: dict[str, Any] = {"x": ("float32", [3])}
    weights: dict[str, Any] = {}
    names = []
    for name, given, dtype in (("trip", trip, "int64"), ("going", going, "bool")):
        if isinstance(given, str):
            inputs[name] = (dtype, [])
        elif given is not None:
            weights[name] = np.asarray(given, dtype)
        names.append("" if given is None else name)
    outputs = more.pop("outputs", ["y"])
    return declared(model([node("Loop", [*names, "x"], outputs, body=graph)], inputs, outputs, weights))


def the_loop(module: Module) -> Loop:
    (loop,) = (op for op in module.main.body.ops if isinstance(op, Loop))
    return loop


def test_a_loop_with_a_known_number_of_trips_has_no_condition() -> None:
    loop = the_loop(load(looping(DOUBLING, 5, True)))
    assert loop.count == const(5)
    assert loop.trip is None
    assert loop.condition is None
    assert loop.body.results[0] == loop.body.params[1], "the condition is passed on"


def test_a_loop_with_run_time_limits_keeps_them() -> None:
    loop = the_loop(load(looping(DOUBLING, "trip", "going")))
    assert loop.count is None
    assert (loop.trip and loop.trip.name, loop.condition and loop.condition.name) == ("trip", "going")


@pytest.mark.parametrize(("trip", "going"), [(0, True), (0, None), (5, False), (None, False)])
def test_a_loop_that_never_runs_leaves_nothing_behind(trip: int | None, going: bool | None) -> None:
    module = load(looping(DOUBLING, trip, going))
    assert not any(isinstance(op, Loop) for op in module.main.body.ops)
    assert interpret(module, [X])[0].tolist() == X.tolist()


def test_a_loop_over_constants_is_run_while_it_is_imported() -> None:
    """Early end included: the state is doubled until it reaches 100."""
    nodes = [
        helper.make_node("Add", ["s0", "s0"], ["d"]),
        helper.make_node("ReduceMax", ["d"], ["m"], keepdims=0),
        helper.make_node("Less", ["m", "limit"], ["on"]),
    ]
    graph = body(nodes, [typed("on", BOOL, ()), typed("d"), typed("m", FLOAT, ())])
    weights = {"start": X, "limit": np.float32(100), "trip": np.int64(1000)}
    loop = node("Loop", ["trip", "", "start"], ["d_end", "rows"], body=graph)
    made = model([loop, node("Add", ["d_end", "x"])], {"x": ("float32", [3])}, ["y", "rows"], weights)
    module = load(declared(made))
    assert all(isinstance(op, TensorOp) for op in module.main.body.ops)
    y, rows = interpret(module, [X])
    assert rows.tolist() == [6, 12, 24, 48, 96, 192]
    assert y.tolist() == (64 * X + X).tolist()


def test_a_state_that_grows_in_a_short_loop_is_written_out() -> None:
    nodes = [helper.make_node("Concat", ["s0", "s0"], ["d"], axis=0), helper.make_node("Identity", ["c"], ["on"])]
    graph = body(nodes, [typed("on", BOOL, ()), helper.make_tensor_value_info("d", FLOAT, ["n"])])
    module = load(looping(graph, 3, True))
    assert interpret(module, [X])[0].tolist() == [*X] * 8
    with pytest.raises(UnsupportedError, match=r"state of Loop node .* has the shape \[3\] before a trip and \[6\]"):
        load(looping(graph, "trip", True))


def collecting() -> onnx.GraphProto:
    nodes = [helper.make_node("Add", ["s0", "s0"], ["d"]), helper.make_node("Identity", ["c"], ["on"])]
    return body([*nodes, helper.make_node("Neg", ["d"], ["row"])], [typed("on", BOOL, ()), typed("d"), typed("row")])


def test_rows_whose_number_data_decide_come_with_their_number() -> None:
    made = looping(collecting(), 5, "going", outputs=["y", "rows"])
    module = load(made)
    verify_module(module)
    assert dict(module.lengths) == {"rows": "rows.length"}
    for going in (True, False):
        outputs = interpret(module, {"x": X, "going": np.asarray(going)})
        y, rows = delivered(module.output_names, module.lengths, outputs)
        trips = 5 if going else 0
        assert y.tolist() == (2**trips * X).tolist()
        assert rows.tolist() == [(-(2.0**n) * X).tolist() for n in range(1, trips + 1)]


def test_what_uses_rows_that_data_count_is_refused() -> None:
    made = looping(collecting(), 5, "going", outputs=["y", "rows"])
    made.graph.node.append(node("Neg", ["rows"], ["z"]))
    made.graph.output[1].name = "z"
    with pytest.raises(UnsupportedError, match=r"Neg node .* uses 'rows', .* and data decide how many"):
        load(made)


def test_more_rows_than_memory_should_hold_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"Output 'rows' of Loop node .* has up to 1000000000 rows"):
        load(looping(collecting(), 10**9, "going", outputs=["y", "rows"]))


def appending(axis: int = 0, piece: str = "d") -> onnx.GraphProto:
    """A body that doubles one state and appends to another, which nothing else reads."""
    nodes = [
        helper.make_node("Add", ["s0", "s0"], ["d"]),
        helper.make_node("Identity", ["c"], ["on"]),
        helper.make_node("Unsqueeze", ["d", "axes"], ["row"]),
        helper.make_node("Concat", ["s1", piece], ["more"], axis=axis),
    ]
    return body(nodes, [typed("on", BOOL, ()), typed("d"), helper.make_tensor_value_info("more", FLOAT, None)], 2)


def growing(graph: onnx.GraphProto, start: Any, trip: Any, going: bool = False, axes: int = 0) -> onnx.ModelProto:
    inputs: dict[str, Any] = {"x": ("float32", [3])} | ({"going": ("bool", [])} if going else {})
    weights = {"trip": np.asarray(trip), "start": np.asarray(start, np.float32), "axes": np.asarray([axes])}
    loop = node("Loop", ["trip", "going" if going else "", "x", "start"], ["y", "all"], body=graph)
    made = model([loop], inputs, ["y", "all"], weights)
    made.graph.output[1].CopyFrom(helper.make_tensor_value_info("all", FLOAT, None))
    return declared(made)


def doubled(trips: int) -> list[Any]:
    return [2.0**n * X for n in range(1, trips + 1)]


@pytest.mark.parametrize("trips", [1, 3, 100])
def test_a_state_that_only_grows_is_collected(trips: int) -> None:
    """However many trips there are; along the first dimension or another, from nothing or from something."""
    for start in (np.zeros((0, 3)), np.ones((2, 3))):
        module = load(growing(appending(0, "row"), start, trips))
        verify_module(module)
        y, found = interpret(module, [X])
        assert the_loop(module).count == const(trips)
        np.testing.assert_array_equal(found, np.concatenate([start, *(x[None] for x in doubled(trips))]))
        assert y.tolist() == doubled(trips)[-1].tolist()
    (_, found) = interpret(load(growing(appending(0), np.zeros(0), trips)), [X])
    np.testing.assert_array_equal(found, np.concatenate(doubled(trips)))
    (_, found) = interpret(load(growing(appending(-1, "row"), np.zeros((3, 1)), trips, axes=1)), [X])
    np.testing.assert_array_equal(found, np.stack([np.zeros(3), *doubled(trips)], 1))


def test_a_state_that_grows_as_far_as_data_say_has_a_length() -> None:
    for start, piece in ((np.zeros((0, 3)), "row"), (np.zeros(0), "d")):
        module = load(growing(appending(0, piece), start, 5, going=True))
        verify_module(module)
        for going in (True, False):
            outputs = interpret(module, {"x": X, "going": np.asarray(going)})
            _, found = delivered(module.output_names, module.lengths, outputs)
            rows = [x[None] if piece == "row" else x for x in doubled(5 if going else 0)]
            np.testing.assert_array_equal(found, np.concatenate([start, *rows]))
    with pytest.raises(UnsupportedError, match=r"state of Loop node .* starts with an extent of 2 and grows as far"):
        load(growing(appending(0, "row"), np.ones((2, 3)), 5, going=True))
    with pytest.raises(UnsupportedError, match=r"state of Loop node .* grows along its dimension 1, and data decide"):
        load(growing(appending(1, "row"), np.zeros((3, 1)), 5, going=True, axes=1))


def test_a_state_that_grows_by_more_in_each_trip_is_written_out() -> None:
    """Two states: one doubles its length, the other takes all of it in."""
    nodes = [
        helper.make_node("Identity", ["c"], ["on"]),
        helper.make_node("Concat", ["s0", "s0"], ["twice"], axis=0),
        helper.make_node("Concat", ["s1", "twice"], ["more"], axis=0),
    ]
    results = [typed("on", BOOL, ()), *(helper.make_tensor_value_info(n, FLOAT, ["n"]) for n in ("twice", "more"))]
    module = load(growing(body(nodes, results, 2), np.zeros(1), 3))
    verify_module(module)
    y, found = interpret(module, [X])
    assert y.tolist() == [*X] * 8
    assert found.tolist() == [0, *([*X] * 14)]


def test_rows_without_elements_are_collected_where_a_loop_is_written_out() -> None:
    nodes = [
        helper.make_node("Identity", ["c"], ["on"]),
        helper.make_node("Concat", ["s0", "s0"], ["twice"], axis=0),
        helper.make_node("Slice", ["s0", "zero", "zero"], ["none"]),
    ]
    results = [typed("on", BOOL, ()), typed("twice", FLOAT, ["n"]), typed("none", FLOAT, [0])]  # type: ignore[list-item]
    loop = node("Loop", ["trip", "", "x"], ["y", "rows"], body=body(nodes, results))
    weights = {"trip": np.int64(2), "zero": np.array([0])}
    made = model([loop], {"x": ("float32", [3])}, ["y", "rows"], weights)
    made.graph.output[1].CopyFrom(helper.make_tensor_value_info("rows", FLOAT, None))
    y, rows = interpret(load(declared(made)), [X])
    assert (y.size, rows.shape) == (12, (2, 0))


def test_a_state_that_grows_and_is_read_is_written_out_or_refused() -> None:
    graph = appending(0, "row")
    graph.node.append(helper.make_node("ReduceMax", ["s1"], ["m"], keepdims=0))
    graph.node.append(helper.make_node("Add", ["d", "m"], ["read"]))
    graph.output[1].name = "read"
    module = load(growing(graph, np.ones((1, 3)), 3))
    assert not any(isinstance(op, Loop) for op in module.main.body.ops)
    with pytest.raises(UnsupportedError, match=r"state of Loop node .* has the shape \[1, 3\] before a trip"):
        load(growing(graph, np.ones((1, 3)), 100))


def test_rows_of_an_unknown_number_of_trips_without_a_bound_are_refused() -> None:
    graph = collecting()
    for trip, going in (("trip", True), (None, "going")):
        with pytest.raises(UnsupportedError, match=r"Output 'rows' of Loop node .* has a row per trip"):
            load(looping(graph, trip, going, outputs=["y", "rows"]))
    (y,) = interpret(load(looping(graph, "trip", True)), {"x": X, "trip": np.asarray(2, np.int64)})
    assert y.tolist() == (4 * X).tolist(), "rows that nobody reads do no harm"


def test_a_loop_without_an_end_is_refused() -> None:
    with pytest.raises(InputError, match=r"Loop node 'the Loop' .* never ends"):
        load(looping(DOUBLING))


def test_a_body_of_another_signature_is_refused() -> None:
    with pytest.raises(InputError):
        load(looping(body(DOUBLING.node, list(DOUBLING.output), states=2), 5))
    fewer = body(DOUBLING.node, list(DOUBLING.output)[:1])
    with pytest.raises(InputError):
        load(looping(fewer, 5))


def branching(then: onnx.GraphProto, orelse: onnx.GraphProto, known: bool | None = None) -> onnx.ModelProto:
    inputs: dict[str, Any] = {"x": ("float32", [3])}
    weights = {} if known is None else {"flag": np.asarray(known)}
    if known is None:
        inputs["flag"] = ("bool", [])
    return model([node("If", ["flag"], then_branch=then, else_branch=orelse)], inputs, ["y"], weights)


def graph_of(kind: str, shape: Sequence[int] = (3,), **attributes: Any) -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node(kind, ["x"], ["r"], **attributes)], "branch", [], [typed("r", FLOAT, shape)]
    )


@pytest.mark.parametrize("known", [True, False])
def test_a_branch_on_a_constant_is_taken_beforehand(known: bool) -> None:
    module = load(branching(graph_of("Neg"), graph_of("Exp"), known))
    assert not any(isinstance(op, If) for op in module.main.body.ops)
    assert np.allclose(interpret(module, [X])[0], -X if known else np.exp(X))


def test_branches_of_different_shapes_are_refused() -> None:
    orelse = helper.make_graph(
        [helper.make_node("Concat", ["x", "x"], ["r"], axis=0)], "branch", [], [typed("r", FLOAT, (6,))]
    )
    made = branching(graph_of("Neg"), orelse)
    with pytest.raises(UnsupportedError, match=r"Output 'y' of If node .* is float32\[3\] or float32\[6\]"):
        load(made)


def test_a_scan_over_nothing_passes_its_states_on_and_collects_nothing() -> None:
    """Along any dimension; what nothing is collected of has the shape that the body gives."""
    inner = helper.make_graph(
        [helper.make_node("Add", ["s", "r"], ["t"]), helper.make_node("Concat", ["r", "s"], ["both"], axis=0)],
        "body",
        [typed("s"), typed("r")],
        [typed("t"), helper.make_tensor_value_info("both", FLOAT, [6])],
    )
    attributes: dict[str, Any] = {"num_scan_inputs": 1, "scan_input_axes": [1], "scan_output_axes": [-1]}
    scan = node("Scan", ["x", "nothing"], ["end", "rows"], body=inner, scan_input_directions=[1], **attributes)
    made = declared(model([scan], {"x": ("float32", [3]), "nothing": ("float32", [3, 0])}, ["end", "rows"]))
    module = load(made)
    verify_module(module)
    assert not any(isinstance(op, Loop) for op in module.main.body.ops), "no copy into a row that is not there"
    end, rows = interpret(module, [X, np.zeros((3, 0), np.float32)])
    assert end.tolist() == X.tolist()
    assert rows.shape == (6, 0)


def test_a_state_in_the_place_of_another_is_copied() -> None:
    """After a trip each state can be overwritten by its successor, whatever the order."""
    swap = body([helper.make_node("Identity", ["c"], ["on"])], [typed("on", BOOL, ()), typed("s1"), typed("s0")], 2)
    made = model(
        [node("Loop", ["trip", "", "x", "z"], ["a", "b"], body=swap)],
        {"x": ("float32", [3]), "z": ("float32", [3]), "trip": ("int64", [])},
        ["a", "b"],
    )
    module = load(declared(made))
    loop = the_loop(module)
    assert not {x.name for x in loop.body.results[1:]} & {x.name for x in loop.body.params}
    for trips in (0, 1, 2, 3):
        a, b = interpret(module, {"x": X, "z": -X, "trip": np.asarray(trips, np.int64)})
        first = X if trips % 2 == 0 else -X
        assert (a.tolist(), b.tolist()) == (first.tolist(), (-first).tolist())
