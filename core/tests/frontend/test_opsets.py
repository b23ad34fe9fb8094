"""Operators whose meaning or form changed between opsets, in their older forms, against ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from core.tests.frontend.models import Array, model, node
from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.testing.node_cases import Case, run_case

RNG = np.random.default_rng(3)


def rand(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def floats(*values: float) -> Array:
    return np.asarray(values, np.float32)


def ints(*values: int) -> Array:
    return np.asarray(values, np.int64)


CASES: list[tuple[str, int, dict[str, Array], dict[str, Array], dict[str, Any]]] = [
    ("Softmax", 11, {"x": rand(2, 3, 4)}, {}, {"axis": 1}),
    ("Softmax", 11, {"x": rand(2, 3, 4)}, {}, {}),
    ("Softmax", 13, {"x": rand(2, 3, 4)}, {}, {"axis": 1}),
    ("LogSoftmax", 11, {"x": rand(2, 3, 4)}, {}, {"axis": 1}),
    ("Hardmax", 11, {"x": rand(2, 3, 4)}, {}, {"axis": 1}),
    ("Hardmax", 13, {"x": rand(2, 3, 4)}, {}, {"axis": 1}),
    ("Clip", 7, {"x": rand(3, 4)}, {}, {"min": -0.5, "max": 0.25}),
    ("Clip", 7, {"x": rand(3, 4)}, {}, {"max": 0.25}),
    ("Clip", 12, {"x": rand(3, 4)}, {"low": np.float32(-0.5)}, {}),
    ("Pad", 7, {"x": rand(3, 4)}, {}, {"pads": [1, 0, 2, 3], "value": 1.5}),
    ("Pad", 7, {"x": rand(3, 4)}, {}, {"pads": [1, 0, 2, 3], "mode": "reflect"}),
    ("Pad", 13, {"x": rand(3, 4)}, {"p": ints(1, 0, 2, 3)}, {"mode": "edge"}),
    ("Slice", 9, {"x": rand(5, 6)}, {}, {"starts": [1, -3], "ends": [4, 100], "axes": [0, 1]}),
    ("Slice", 9, {"x": rand(5, 6)}, {}, {"starts": [1], "ends": [-1]}),
    ("Slice", 11, {"x": rand(5, 6)}, {"s": ints(4), "e": ints(-9), "a": ints(-1), "k": ints(-2)}, {}),
    ("Squeeze", 11, {"x": rand(3, 1, 4, 1)}, {}, {"axes": [1]}),
    ("Squeeze", 13, {"x": rand(3, 1, 4, 1)}, {}, {}),
    ("Unsqueeze", 11, {"x": rand(3, 4)}, {}, {"axes": [0, 3]}),
    ("ReduceSum", 11, {"x": rand(3, 4, 5)}, {}, {"axes": [0, -1], "keepdims": 0}),
    ("ReduceSum", 13, {"x": rand(3, 4, 5)}, {"a": ints(1)}, {}),
    ("ReduceMean", 17, {"x": rand(3, 4, 5)}, {}, {"axes": [1]}),
    ("ReduceMean", 18, {"x": rand(3, 4, 5)}, {"a": ints(1)}, {}),
    ("ReduceMax", 7, {"x": rand(3, 4, 5)}, {}, {}),
    ("Upsample", 7, {"x": rand(1, 2, 3, 4)}, {}, {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "nearest"}),
    ("Upsample", 9, {"x": rand(1, 2, 3, 4)}, {"s": floats(1, 1, 2, 2)}, {"mode": "linear"}),
    ("Resize", 10, {"x": rand(1, 2, 6, 9)}, {"s": floats(1, 1, 0.5, 2)}, {"mode": "nearest"}),
    ("Resize", 10, {"x": rand(1, 2, 4, 5)}, {"s": floats(1, 1, 2, 2)}, {"mode": "linear"}),
    ("Resize", 11, {"x": rand(1, 2, 4, 5)}, {"r": floats(), "s": floats(1, 1, 2, 1.5)}, {"mode": "cubic"}),
    ("BatchNormalization", 7, {"x": rand(2, 3, 4)}, {k: np.abs(rand(3)) for k in "sbmv"}, {}),
    ("BatchNormalization", 14, {"x": rand(2, 3, 4), **{k: np.abs(rand(3)) for k in "sbmv"}}, {}, {}),
    ("DepthToSpace", 7, {"x": rand(1, 8, 2, 3)}, {}, {"blocksize": 2}),
    ("DepthToSpace", 11, {"x": rand(1, 8, 2, 3)}, {}, {"blocksize": 2, "mode": "CRD"}),
    ("Gather", 7, {"x": rand(4, 3)}, {"i": ints(3, 0)}, {}),
    ("Gemm", 7, {"x": rand(3, 4)}, {"w": rand(5, 4), "b": rand(5)}, {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", 11, {"x": rand(3, 4)}, {"w": rand(4, 5)}, {}),
    ("AveragePool", 7, {"x": rand(1, 2, 7, 7)}, {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("AveragePool", 10, {"x": rand(1, 2, 8, 8)}, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", 7, {"x": rand(1, 2, 7, 7)}, {}, {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}),
    ("MaxPool", 10, {"x": rand(1, 2, 9)}, {}, {"kernel_shape": [3], "dilations": [2], "ceil_mode": 1, "strides": [2]}),
    ("Dropout", 7, {"x": rand(3, 4)}, {}, {"ratio": 0.3}),
    ("Dropout", 10, {"x": rand(3, 4)}, {}, {}),
    ("Scatter", 9, {"x": rand(3, 3)}, {"i": ints(1, 0, 2).reshape(1, 3), "u": rand(1, 3)}, {"axis": 0}),
    ("Flatten", 7, {"x": rand(2, 3, 4)}, {}, {"axis": 2}),
    ("InstanceNormalization", 7, {"x": rand(2, 3, 4)}, {"s": rand(3), "b": rand(3)}, {}),
    ("LRN", 7, {"x": rand(1, 6, 3, 2)}, {}, {"size": 5, "alpha": 0.1}),
    ("Sum", 8, {"a": rand(3, 4), "b": rand(4), "c": rand(3, 1)}, {}, {}),
    ("Pow", 12, {"x": np.abs(rand(3)) + 1}, {"p": ints(3, -1, 0)}, {}),
    ("Expand", 8, {"x": rand(3, 1)}, {"s": ints(2, 1, 4)}, {}),
    ("OneHot", 9, {"i": ints(0, 2, 1)}, {"d": ints(3), "v": floats(-1, 1)}, {"axis": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "opset", "inputs", "weights", "attributes"), CASES)
def test_operator(
    kind: str, opset: int, inputs: dict[str, Array], weights: dict[str, Array], attributes: dict[str, Any]
) -> None:
    names = [*inputs, *weights]
    if kind == "Clip" and weights:
        names = ["x", "low", ""]
    made = model([node(kind, names, **attributes)], inputs, weights=weights, opset=opset)
    _agree(made, inputs)


def _agree(made: onnx.ModelProto, inputs: dict[str, Array]) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for mine, theirs in zip(interpret(load(made), inputs), session.run(None, inputs), strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("opset", "attributes", "weights"), [(11, {"split": [1, 3]}, {}), (13, {}, {"n": ints(1, 3)})])
def test_split(opset: int, attributes: dict[str, Any], weights: dict[str, Array]) -> None:
    split = node("Split", ["x", *weights], ["a", "b"], axis=1, **attributes)
    _agree(model([split], {"x": rand(2, 4)}, ["a", "b"], weights=weights, opset=opset), {"x": rand(2, 4)})


@pytest.mark.parametrize("opset", [7, 10, 11])
def test_top_k(opset: int) -> None:
    weights = {} if opset < 10 else {"k": ints(2)}
    attributes = {"k": 2} if opset < 10 else {}
    x = rand(3, 5)
    top = node("TopK", ["x", *weights], ["v", "i"], axis=1, **attributes)
    _agree(model([top], {"x": x}, ["v", "i"], weights=weights, opset=opset), {"x": x})


# Models that the onnx package stores, converted from PyTorch at opset 6.


def _stored() -> Iterator[Case]:
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data"
    for path in sorted(folder.glob("pytorch-*/test_*/model.onnx")):
        data = []
        for part in sorted(path.parent.glob("test_data_set_*")):
            data.append(tuple(_tensors(part, kind) for kind in ("input", "output")))
        yield Case(path.parent.name, "", onnx.load(path), tuple(data), 1e-3, 1e-5)  # type: ignore[arg-type]


def _tensors(folder: Path, kind: str) -> tuple[onnx.TensorProto, ...]:
    files = sorted(folder.glob(f"{kind}_*.pb"), key=lambda p: int(p.stem.rpartition("_")[2]))
    return tuple(onnx.TensorProto.FromString(p.read_bytes()) for p in files)


def test_stored_models_of_an_old_exporter() -> None:
    outcomes = [run_case(case, interpret) for case in _stored()]
    assert [f"{x.name}: {x.kind}: {x.detail}" for x in outcomes if x.kind != "native"] == []
    assert Counter(x.kind for x in outcomes)["native"] == 117
