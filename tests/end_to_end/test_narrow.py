"""Narrow element types through artifacts: inputs, weights and outputs of the compiled program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import tilewright
from tilewright.ir import dtypes


@pytest.mark.parametrize("dtype", ["float8e4m3fn", "float4e2m1", "int4"])
def test_a_product_with_narrow_weights_and_inputs_agrees(dtype: str, tmp_path: Path) -> None:
    """`Cast(w) · Cast(x)`, the input handed through as well; saved, loaded, compared with float64."""
    rng = np.random.default_rng(0)
    narrow = dtypes.to_numpy(dtype)
    number = helper.np_dtype_to_tensor_dtype(narrow)
    w, x = (rng.integers(-6, 7, shape).astype(np.float32).astype(narrow) for shape in ((33, 40), (40, 17)))
    nodes = [
        helper.make_node("Cast", ["w"], ["wf"], to=1),
        helper.make_node("Cast", ["x"], ["xf"], to=1),
        helper.make_node("MatMul", ["wf", "xf"], ["y"]),
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
    ]
    graph = helper.make_graph(
        nodes,
        "narrow",
        [helper.make_tensor_value_info("x", number, x.shape)],
        [helper.make_tensor_value_info("y", 1, [33, 17]), helper.make_tensor_value_info("t", number, [17, 40])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    onnx.checker.check_model(model)
    tilewright.compile(model, target="cpu", cache=False).save(tmp_path / "p.tw")
    y, t = tilewright.load(tmp_path / "p.tw").run(None, {"x": x})
    assert np.allclose(y, w.astype(np.float64) @ x.astype(np.float64), rtol=1e-6)
    assert t.dtype == narrow
    assert np.array_equal(t.view(np.uint8), x.T.copy().view(np.uint8))
