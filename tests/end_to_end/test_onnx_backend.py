"""ONNX's own interface to backends."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tilewright import onnx_backend
from tilewright.errors import InputError, UnsupportedError

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def ranged() -> onnx.ModelProto:
    """`Range(0, limit, 1)`: the shape of the result is the value of the input."""
    limit = helper.make_tensor_value_info("limit", TensorProto.INT64, [])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, ["n"])
    constants = [helper.make_tensor(n, TensorProto.INT64, [], [v]) for n, v in (("zero", 0), ("one", 1))]
    node = helper.make_node("Range", ["zero", "limit", "one"], ["y"])
    graph = helper.make_graph([node], "ranged", [limit], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_node_runs() -> None:
    (y,) = onnx_backend.run_node(helper.make_node("Relu", ["x"], ["y"]), [X - 2])
    assert np.array_equal(y, np.maximum(X - 2, 0))


def test_a_model_is_compiled_for_each_set_of_values_that_steer_its_shapes() -> None:
    rep = onnx_backend.prepare(ranged())
    for limit in (3, 5, 3):
        outputs = rep.run([np.asarray(limit, np.int64)])
        assert outputs.y.tolist() == list(range(limit))  # type: ignore[attr-defined]
    assert rep.program.stats.specialised == 2


def test_inputs_are_taken_by_name_and_counted() -> None:
    rep = onnx_backend.prepare(ranged())
    assert rep.run({"limit": np.asarray(2, np.int64)})[0].tolist() == [0, 1]
    with pytest.raises(InputError, match="takes 1 inputs, 2 are given"):
        rep.run([np.asarray(2, np.int64), X])


def test_devices() -> None:
    assert onnx_backend.supports_device("CPU")
    assert onnx_backend.supports_device("CUDA:0")
    assert not onnx_backend.supports_device("TPU")
    with pytest.raises(UnsupportedError, match="TPU"):
        onnx_backend.prepare(ranged(), "TPU")
    with pytest.raises(InputError, match="does not go with the target"):
        onnx_backend.prepare(ranged(), "CUDA")


def test_what_cannot_be_compiled_says_why() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [1, "n"])
    graph = helper.make_graph([helper.make_node("NonZero", ["x"], ["y"], name="the node")], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(UnsupportedError, match="the node"):
        onnx_backend.run_model(model, [X[0, [0, 1, 2, 0]] + 1])


def test_what_cannot_be_compiled_falls_back_when_asked_for() -> None:
    node = helper.make_node("NonZero", ["x"], ["y"])
    (y,) = onnx_backend.run_node(node, [X], fallback="reference")
    assert y.tolist() == [list(x) for x in zip(*np.argwhere(X).tolist(), strict=True)]

    texts = helper.make_tensor_value_info("x", TensorProto.STRING, [2])
    both = helper.make_tensor_sequence_value_info("y", TensorProto.STRING, None)
    made = helper.make_node("SequenceConstruct", ["x", "x"], ["y"])
    graph = helper.make_graph([made], "g", [texts], [both])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    rep = onnx_backend.prepare(model, fallback="reference")
    assert [x.tolist() for x in rep.run([np.array(["a", "b"])])[0]] == [["a", "b"], ["a", "b"]]
