"""One-node models for the tests of the front end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.ir.module import Module
from tilewright.ir.ops import TensorOp

Array = npt.NDArray[Any]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array | tuple[str, Sequence[int | str]]],
    outputs: Sequence[str] = ("y",),
    weights: Mapping[str, Array] | None = None,
    opset: int = 18,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model; an input is an array like it, or a dtype and a shape. It imports the domain `acme` too."""
    infos = []
    for name, given in inputs.items():
        dtype, shape = (given.dtype, given.shape) if isinstance(given, np.ndarray) else given
        infos.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape))
    graph = helper.make_graph(
        list(nodes),
        "g",
        infos,
        [onnx.ValueInfoProto(name=x) for x in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("acme", 3)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))
    return onnx.shape_inference.infer_shapes(made)


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, name=f"the {kind}", **attributes)


def check(
    kind: str,
    inputs: Mapping[str, Array],
    weights: Mapping[str, Array] | None = None,
    opset: int = 18,
    tolerance: float = 1e-6,
    **attributes: Any,
) -> Module:
    """Compares one operator (inputs first, then weights) with ONNX's reference evaluator; returns the module."""
    made = model([node(kind, [*inputs, *(weights or {})], **attributes)], inputs, weights=weights, opset=opset)
    module = load(made)
    (mine,) = interpret(module, dict(inputs))
    with np.errstate(all="ignore"):
        (theirs,) = ReferenceEvaluator(made).run(None, dict(inputs))
    theirs = np.asarray(theirs)
    assert mine.dtype == theirs.dtype
    assert mine.shape == theirs.shape
    np.testing.assert_allclose(
        mine.astype(np.float64), theirs.astype(np.float64), rtol=tolerance, atol=tolerance, equal_nan=True
    )
    return module


def operators(module: Module) -> list[TensorOp]:
    """The module's operators, all of which must be tensor operators."""
    found = []
    for op in module.main.body.ops:
        assert isinstance(op, TensorOp)
        found.append(op)
    return found
