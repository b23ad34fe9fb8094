"""MaxRoiPool agrees with ONNX Runtime, and where that has no kernel with a loop in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import tilewright
from tilewright.frontend import load
from tilewright.interpret.tensor import interpret

Arrays = dict[str, np.ndarray[Any, Any]]
POOLED, SCALE = (3, 2), 0.5


def model(dtype: str, rois: int) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node("MaxRoiPool", ["x", "rois"], ["y"], pooled_shape=POOLED, spatial_scale=SCALE)
    x = helper.make_tensor_value_info("x", kind, [2, 3, 7, 9])
    graph = helper.make_graph(
        [node],
        "pool",
        [x, helper.make_tensor_value_info("rois", kind, [rois, 5])],
        [helper.make_tensor_value_info("y", kind, [rois, 3, *POOLED])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feeds(dtype: str) -> Arrays:
    rng = np.random.default_rng(0)
    corners = [
        (0, 0, 0, 17, 13),  # the whole image
        (1, 2, 2, 3, 3),  # halves after scaling; smaller than the bins
        (0, 5, 1, 5, 1),  # one point
        (1, 9, 9, 2, 2),  # the end before the start
        (0, -7, -3, 4, 30),  # reaches out of the image on three sides, halves below zero
        (1, 40, 40, 50, 50),  # outside: empty
        *((n, x, y, x + w, y + h) for n, x, y, w, h in rng.integers(0, [2, 18, 14, 12, 12], (30, 5))),
    ]
    x = rng.standard_normal((2, 3, 7, 9)) - 3.0  # below zero, so that a bin of padding would be seen
    return {"x": x.astype(dtype), "rois": np.asarray(corners, dtype)}


def by_loops(x: Any, rois: Any) -> Any:
    """The operator as Fast R-CNN's layer does it: rounded corners, bins of rounded-out ends, empty ones 0."""
    out = np.zeros((len(rois), x.shape[1], *POOLED), x.dtype)

    def nearest(value: float) -> int:
        return int(math.copysign(math.floor(abs(value) + 0.5), value))

    for n, (batch, *corners) in enumerate(rois.tolist()):
        left, top, right, bottom = (nearest(corner * SCALE) for corner in corners)
        height, width = (max(b - a + 1, 1) for a, b in ((top, bottom), (left, right)))
        for p, q in np.ndindex(*POOLED):
            rows = [r for r in range(top + p * height // 3, top - (-(p + 1) * height // 3)) if 0 <= r < x.shape[2]]
            cols = [c for c in range(left + q * width // 2, left - (-(q + 1) * width // 2)) if 0 <= c < x.shape[3]]
            if rows and cols:
                out[n, :, p, q] = x[int(batch)][:, rows][:, :, cols].max((1, 2))
    return out


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_max_roi_pool(dtype: str) -> None:
    given = feeds(dtype)
    proto = model(dtype, len(given["rois"]))
    expected = by_loops(given["x"], given["rois"])
    if dtype == "float32":
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(session.run(None, given)[0], expected)
    np.testing.assert_array_equal(interpret(load(proto), given)[0], expected)
    with tilewright.compile(proto, cache=False) as program:
        np.testing.assert_array_equal(program.run(None, given)[0], expected)
