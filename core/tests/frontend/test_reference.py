"""Control flow around nodes of ONNX's reference evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from core.tests.frontend.models import model, node
from tilewright.errors import UnsupportedError
from tilewright.frontend.reference import reference_node
from tilewright.testing.cases import OPSET
from tilewright.testing.control import control_case
from tilewright.testing.reference import Reference

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
info = helper.make_tensor_value_info
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def check(made: onnx.ModelProto, feeds: dict[str, Any], expected: Sequence[Any]) -> None:
    """Every node by `reference_node`, beside what is expected of the whole model."""
    opsets = {x.domain: x.version for x in made.opset_import}
    values = dict(feeds) | {x.name: onnx.numpy_helper.to_array(x) for x in made.graph.initializer}
    for proto in made.graph.node:
        values |= reference_node(proto, opsets).run(values)
    for output, wanted in zip(made.graph.output, expected, strict=True):
        assert values[output.name].dtype == wanted.dtype
        assert values[output.name].shape == wanted.shape
        np.testing.assert_allclose(values[output.name], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(30))
def test_generated_control_flow(seed: int) -> None:
    case = control_case(seed)
    given = dict(case.feeds) | {x.name: onnx.numpy_helper.to_array(x) for x in case.model.graph.initializer}
    check(case.model, dict(case.feeds), Reference(OPSET).graph(case.model.graph, given))


def looped(trips: int | None, limit: float) -> onnx.ModelProto:
    """Doubles x until its sum passes a limit; collects every state, and its number of trips."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["s", "s"], ["t"]),
            helper.make_node("ReduceSum", ["t"], ["sum"], keepdims=0),
            helper.make_node("Less", ["sum", "limit"], ["going"]),
            helper.make_node("Identity", ["i"], ["number"]),
            helper.make_node("Identity", ["t"], ["row"]),
        ],
        "body",
        [info("i", INT64, []), info("c", BOOL, []), info("s", FLOAT, [2, 3])],
        [info("going", BOOL, []), info("t", FLOAT, [2, 3]), info("number", INT64, []), info("row", FLOAT, [2, 3])],
    )
    loop = node("Loop", ["trips" if trips is not None else "", "", "x"], ["y", "numbers", "rows"], body=body)
    weights = {"limit": np.asarray(limit, np.float32)}
    weights |= {} if trips is None else {"trips": np.asarray(trips)}
    made = model([loop], {"x": X}, outputs=["y", "numbers", "rows"], weights=weights)
    shapes = ([2, 3], ["n"], ["n", 2, 3])
    for output, kind, shape in zip(made.graph.output, (FLOAT, INT64, FLOAT), shapes, strict=True):
        output.CopyFrom(info(output.name, kind, shape))
    return made


@pytest.mark.parametrize(("trips", "limit"), [(5, 1e9), (0, 1e9), (None, 200.0), (20, 200.0), (1, 0.0)])
def test_loops_stop_where_they_should_and_stack_what_they_collect(trips: int | None, limit: float) -> None:
    made = looped(trips, limit)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    check(made, {"x": X}, session.run(None, {"x": X}))


@pytest.mark.parametrize("at", [-2, -1, 0, 1, 2])
def test_an_element_is_put_in_front_of_a_position(at: int) -> None:
    nodes = [
        node("SequenceConstruct", ["x", "x"], ["s"]),
        node("SequenceInsert", ["s", "z", "at"], ["t"]),
        node("ConcatFromSequence", ["t"], ["y"], axis=0),
    ]
    made = model(nodes, {"x": X, "z": X}, weights={"at": np.asarray(at)})
    feeds = {"x": X, "z": X + 10}
    check(made, feeds, onnxruntime.InferenceSession(made.SerializeToString()).run(None, feeds))


def test_a_scan_before_opset_9_is_refused() -> None:
    body = helper.make_graph([node("Neg", ["a"], ["b"])], "body", [info("a", FLOAT, [3])], [info("b", FLOAT, [3])])
    scan = node("Scan", ["", "x"], ["y"], body=body, num_scan_inputs=1)
    with pytest.raises(UnsupportedError, match="Scan before opset 9"):
        reference_node(scan, {"": 8})


def test_an_error_inside_names_the_inner_node() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["a", "a3"], ["b"], name="inside")], "b", [], [info("b", FLOAT, None)]
    )
    branch = node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    with pytest.raises(RuntimeError, match="Add node 'inside': TypeError: "):
        reference_node(branch, {"": 18}).run({"c": np.asarray(True), "a": X, "a3": X[:, :2]})
