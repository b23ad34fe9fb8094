"""Small models of one kernel each: every kind of operator, with awkward sizes, against which recipes are
checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

OPSET = 18


@attrs.frozen
class Case:
    """A model and inputs for it.

    Args:
        name: unique in the corpus.
        model: checked, with inferred shapes.
        feeds: input arrays by name.
    """

    name: str
    model: onnx.ModelProto
    feeds: Mapping[str, Any]


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node whose inputs and outputs are words of a string; `-` leaves an optional input out."""
    return helper.make_node(kind, [x if x != "-" else "" for x in inputs.split()], outputs.split(), **attributes)


def case(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Any],
    weights: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
) -> Case:
    """A case; inputs and weights are arrays, and the outputs' types are inferred."""
    infos = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in inputs.items()
    ]
    graph = helper.make_graph(
        nodes,
        name.replace(" ", "_"),
        infos,
        [onnx.ValueInfoProto(name=x) for x in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    return Case(name, shape_inference.infer_shapes(model, strict_mode=True, data_prop=True), dict(inputs))


def corpus(dtype: str = "float32") -> tuple[Case, ...]:
    """All cases, with float tensors of `dtype` ("float32" or "float16"), from a fixed seed."""
    rng = np.random.default_rng(20)

    def rand(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    def ints(*values: int) -> Any:
        return np.asarray(values, np.int64)

    cases: list[Case] = []

    def add(name: str, nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Any], **rest: Any) -> None:
        cases.append(case(f"{name} {dtype}", nodes, inputs, **rest))

    # contractions
    for m, k, n in ((64, 64, 64), (1, 70, 130), (37, 19, 53), (128, 257, 96), (7, 1, 5)):
        add(f"matmul {m}x{k}x{n}", [node("MatMul", "x w", "y")], {"x": rand(m, k)}, weights={"w": rand(k, n)})
    add("matmul of two inputs", [node("MatMul", "a b", "y")], {"a": rand(33, 40), "b": rand(40, 50)})
    add("batched matmul", [node("MatMul", "a b", "y")], {"a": rand(3, 17, 20), "b": rand(3, 20, 18)})
    add("broadcast matmul", [node("MatMul", "a b", "y")], {"a": rand(2, 3, 9, 8), "b": rand(3, 8, 11)})
    add("matvec", [node("MatMul", "a b", "y")], {"a": rand(40, 60), "b": rand(60)})
    add(
        "gemm transposed with bias and relu",
        [node("Gemm", "x w b", "g", transA=1, transB=1, alpha=0.5), node("Relu", "g", "y")],
        {"x": rand(24, 18)},
        weights={"w": rand(30, 24), "b": rand(30)},
    )
    for name, shape, filters, attributes in (
        ("3x3", (1, 8, 14, 14), (20, 8, 3, 3), {"pads": [1, 1, 1, 1]}),
        ("3x3 stride 2", (2, 5, 15, 13), (9, 5, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("1x1", (1, 32, 9, 9), (48, 32, 1, 1), {}),
        ("7x7 stem", (1, 3, 30, 30), (16, 3, 7, 7), {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
        ("dilated", (1, 4, 12, 12), (6, 4, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        ("grouped", (1, 12, 10, 10), (18, 4, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
        ("depthwise", (1, 24, 11, 11), (24, 1, 3, 3), {"group": 24, "pads": [1, 1, 1, 1]}),
        ("1d", (2, 6, 50), (10, 6, 5), {"pads": [2, 2]}),
    ):
        add(
            f"conv {name}",
            [node("Conv", "x w b", "c", **attributes), node("Relu", "c", "y")],
            {"x": rand(*shape)},
            weights={"w": rand(*filters), "b": rand(filters[0])},
        )
    # reductions
    add("row sum", [node("ReduceSum", "x a", "y")], {"x": rand(33, 130)}, weights={"a": ints(1)})
    add("column mean", [node("ReduceMean", "x a", "y")], {"x": rand(70, 45)}, weights={"a": ints(0)})
    add("full maximum", [node("ReduceMax", "x", "y")], {"x": rand(9, 10, 11)})
    add("middle product", [node("ReduceProd", "x a", "y")], {"x": rand(5, 7, 6)}, weights={"a": ints(1)})
    add("argmax", [node("ArgMax", "x", "y", axis=1)], {"x": rand(13, 29)})
    add(
        "max pool",
        [node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])],
        {"x": rand(1, 6, 15, 17)},
    )
    add("average pool", [node("GlobalAveragePool", "x", "y")], {"x": rand(2, 10, 7, 7)})
    # element-wise and movement
    add(
        "element-wise chain",
        [node("Add", "a b", "s"), node("Tanh", "s", "t"), node("Mul", "t c", "y")],
        {"a": rand(4, 33, 7), "b": rand(33, 1), "c": rand(7)},
    )
    add("erf", [node("Erf", "x", "y")], {"x": rand(1003)})
    add("transpose", [node("Transpose", "x", "y", perm=[2, 0, 1])], {"x": rand(9, 14, 33)})
    add("pad", [node("Pad", "x p", "y")], {"x": rand(5, 9)}, weights={"p": ints(1, 2, 0, 3)})
    add("concat", [node("Concat", "a b c", "y", axis=1)], {"a": rand(3, 5, 8), "b": rand(3, 1, 8), "c": rand(3, 9, 8)})
    add("gather", [node("Gather", "x i", "y", axis=1)], {"x": rand(6, 20), "i": rng.integers(0, 20, (4, 3))})
    add("where", [node("Where", "c a b", "y")], {"c": rng.random((6, 40)) < 0.5, "a": rand(6, 40), "b": rand(40)})
    add("scalar", [node("Neg", "x", "y")], {"x": rand()})
    add(
        "scatter",
        [node("ScatterElements", "x i u", "y", axis=0, reduction="add")],
        {"x": rand(8, 5), "i": rng.integers(0, 8, (11, 5)), "u": rand(11, 5)},
    )
    add("running sum", [node("CumSum", "x a", "y")], {"x": rand(5, 21)}, weights={"a": ints(1)})
    return tuple(cases)
