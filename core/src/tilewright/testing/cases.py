"""A case: a model with inputs for it, and short ways to write one."""

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
        name: unique among the cases that it stands with.
        model: checked, with inferred shapes.
        feeds: input arrays by name.
    """

    name: str
    model: onnx.ModelProto
    feeds: Mapping[str, Any]


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node whose inputs and outputs are words of a string; `-` leaves an optional input out."""
    return helper.make_node(kind, [x if x != "-" else "" for x in inputs.split()], outputs.split(), **attributes)


def steps(text: str) -> list[onnx.NodeProto]:
    """Nodes without attributes, one "results = Operator operands" after the other, between semicolons."""
    nodes = []
    for step in text.split(";"):
        outputs, call = step.split("=")
        kind, inputs = call.split(maxsplit=1)
        nodes.append(node(kind, inputs, outputs))
    return nodes


def case(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Any],
    weights: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = OPSET,
    like: str = "",
) -> Case:
    """A case; inputs and weights are arrays, and the outputs' types are inferred.

    Args:
        like: the input whose type the outputs have, where onnx cannot infer it.
    """
    infos = {
        k: helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for k, v in inputs.items()
    }
    results = [onnx.ValueInfoProto(name=x, type=infos[like].type if like else None) for x in outputs]
    graph = helper.make_graph(
        nodes,
        name.replace(" ", "_"),
        list(infos.values()),
        results,
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return Case(name, shape_inference.infer_shapes(model, strict_mode=True, data_prop=True), dict(inputs))
