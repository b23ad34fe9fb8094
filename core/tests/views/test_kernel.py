"""Kernel specifications of the default groups, evaluated and compared with ONNX's reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from core.tests.views.evaluated import run
from tilewright.device import load_device
from tilewright.frontend import load
from tilewright.ir.group import Group
from tilewright.planning.connect import epilogue
from tilewright.planning.session import Session
from tilewright.views.kernel import normalise


def model(nodes: list[Any], inputs: dict[str, list[int]], weights: dict[str, Any], outputs: list[str]) -> Any:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)


def rand(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def n(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


CASES: dict[str, tuple[Any, int]] = {
    # name: (model, groups that the default `connect` makes)
    "conv, residual and relu": (
        model(
            [
                n("Conv", "x w b", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
                n("Add", "c r", "a"),
                n("Relu", "a", "y"),
            ],
            {"x": [1, 3, 9, 8], "r": [1, 4, 5, 4]},
            {"w": rand(4, 3, 3, 3), "b": rand(4)},
            ["y"],
        ),
        1,
    ),
    "a gather by a shifted, converted index": (
        # Both the index's conversion and the rows' exponential are computed where the gather reads.
        model(
            [
                n("Abs", "x", "e"),
                n("Ceil", "i", "c"),
                n("Cast", "c", "k", to=7),
                n("Gather", "e k", "g"),
                n("Add", "g r", "y"),
            ],
            {"x": [6, 5], "i": [4], "r": [4, 5]},
            {},
            ["y"],
        ),
        3,
    ),
    "two outputs of what an index that is computed here picks": (
        model(
            [
                n("Ceil", "i", "c"),
                n("Cast", "c", "k", to=7),
                n("Gather", "x k", "g"),
                n("Exp", "g", "e"),
                n("Neg", "e", "y"),
                n("Abs", "e", "z"),
            ],
            {"x": [6], "i": [4]},
            {},
            ["y", "z"],
        ),
        2,
    ),
    "two outputs of one inner value": (
        model(
            [n("Relu", "x", "i"), n("Mul", "i w", "y"), n("Mul", "i v", "z")],
            {"x": [6, 5]},
            {"w": rand(5), "v": rand(6, 1)},
            ["y", "z"],
        ),
        1,
    ),
    "both the convolution and its relu leave": (
        model(
            [n("Conv", "x w", "c"), n("Relu", "c", "y")],
            {"x": [1, 3, 6, 6]},
            {"w": rand(4, 3, 3, 3)},
            ["c", "y"],
        ),
        1,
    ),
    "heads split and transposed before a product": (
        model(
            [
                n("Reshape", "x s", "h"),
                n("Transpose", "h", "t", perm=[0, 2, 1, 3]),
                n("Transpose", "h", "u", perm=[0, 2, 3, 1]),
                n("MatMul", "t u", "p"),
                n("Mul", "p scale", "y"),
            ],
            {"x": [2, 5, 12]},
            {"s": np.array([0, 0, 3, 4], np.int64), "scale": np.float32(0.5)},
            ["y"],
        ),
        1,
    ),
    "pad and transpose into a sum": (
        model(
            [
                n("Pad", "x p", "q"),
                n("Transpose", "q", "t", perm=[1, 0]),
                n("ReduceSum", "t ax", "r", keepdims=0),
                n("Neg", "r", "y"),
            ],
            {"x": [4, 5]},
            {"p": np.array([1, 0, 2, 3], np.int64), "ax": np.array([1], np.int64)},
            ["y"],
        ),
        1,
    ),
    "a diamond whose sides must not close a circle": (
        model(
            [
                n("ReduceMax", "x", "m", axes=[1], keepdims=1),
                n("Sub", "x m", "d"),
                n("Exp", "d", "e"),
                n("ReduceSum", "e ax", "s", keepdims=1),
                n("Div", "e s", "y"),
            ],
            {"x": [4, 7]},
            {"ax": np.array([1], np.int64)},
            ["y"],
        ),
        4,
    ),
    "reshape behind a product": (
        model(
            [n("MatMul", "x w", "p"), n("Reshape", "p s", "r"), n("Add", "r b", "y")],
            {"x": [2, 6, 8]},
            {"w": rand(8, 12), "s": np.array([2, 6, 3, 4], np.int64), "b": rand(3, 4)},
            ["y"],
        ),
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_specifications_mean_what_the_model_means(name: str) -> None:
    proto, groups = CASES[name]
    feeds = {x.name: rand(*(d.dim_value for d in x.type.tensor_type.shape.dim)) for x in proto.graph.input}
    expected = ReferenceEvaluator(proto).run(None, feeds)
    module = load(proto)
    session = Session("cuda:h200", load_device("h200"), [], {}, frozenset(module.constants))
    cover = epilogue.make()(module.main.body, session.request())
    values: dict[str, Any] = {k: v.data for k, v in module.constants.items()}
    values |= dict(zip((v.name for v in module.main.body.params), feeds.values(), strict=True))
    assert len(cover.items) == groups
    for group in cover.items:
        assert isinstance(group, Group)
        spec = normalise(group, module.constants)
        assert spec is not None
        values |= run(spec, values)
    for value, reference in zip(module.main.body.results, expected, strict=True):
        np.testing.assert_allclose(values[value.name], reference, rtol=1e-5, atol=1e-6)
