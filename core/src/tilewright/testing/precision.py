"""The same model in a narrower float type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tilewright.ir import dtypes

_WIDE_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that must stay float32 by the operator's definition."""


def narrowed(model: onnx.ModelProto, dtype: str) -> onnx.ModelProto:
    """A copy of `model` whose float32 tensors are of `dtype` ("float16" or "bfloat16").

    Inputs, weights, constants and the targets of casts change; inferred shapes are inferred anew. Numbers that are
    too large become the largest finite ones, as they are masks.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    kind = helper.np_dtype_to_tensor_dtype(dtypes.to_numpy(dtype))
    wide = {node.input[n] for node in graph.node for n in _WIDE_INPUTS.get(node.op_type, ()) if n < len(node.input)}
    for tensor in graph.initializer:
        if tensor.name not in wide:
            _narrow(tensor, dtype)
    for info in graph.input:
        if info.type.tensor_type.elem_type == TensorProto.FLOAT and info.name not in wide:
            info.type.tensor_type.elem_type = kind
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = kind
            if attribute.HasField("t") and not wide.intersection(node.output):
                _narrow(attribute.t, dtype)
    del graph.value_info[:]
    for output in graph.output:
        output.ClearField("type")
    return onnx.shape_inference.infer_shapes(result, strict_mode=True, data_prop=True)


def _narrow(tensor: onnx.TensorProto, dtype: str) -> None:
    if tensor.data_type != TensorProto.FLOAT:
        return
    name, data = tensor.name, numpy_helper.to_array(tensor)
    target = dtypes.to_numpy(dtype)
    if dtype == "float16":
        largest = float(np.finfo(np.float16).max)
        data = np.clip(data, -largest, largest)
    tensor.CopyFrom(numpy_helper.from_array(data.astype(target), name))


def narrowed_feeds(feeds: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The arrays with those of float32 rounded to `dtype`."""
    target = dtypes.to_numpy(dtype)
    return {k: v.astype(target) if v.dtype == np.float32 else v for k, v in feeds.items()}
