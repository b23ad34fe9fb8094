"""The benchmark of models: its graphs have the papers' sizes, are native, and agree with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

import tilewright
from benchmarks.models.graphs import MODELS, case, graph, in_dtype
from tilewright.api import settings_for
from tilewright.check import check_model
from tilewright.frontend.source import read

PARAMETERS = {
    "alexnet": 61_100_840,
    "bert": 109_482_240 - 256 * 768,  # a table of 256 positions is enough
    "bsrn": 352_400,
    "mobilenet_v2": 3_504_872,
    "mobilevit_s": 5_578_632,
    "resnet50": 25_557_032,
    "resnext50": 25_028_904,
    "shufflenet_v2": 2_278_604,
    "swin_t": 28_288_354,
    "unet": 31_037_698 + 98 * 65,  # the count is known for 2 classes
    "vgg16": 138_357_544,
    "vit_b16": 86_567_656,
    "vit_s32": 22_878_952,
}
"""What torchvision, timm, transformers and the papers' own code count, without running statistics."""


def parameters(model: onnx.ModelProto) -> int:
    """Weights of a model: no scalars, no statistics, no masks."""
    statistics = {x for n in model.graph.node if n.op_type == "BatchNormalization" for x in n.input[3:5]}
    tensors = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and t.dims]
    weights = [t for t in tensors if t.name not in statistics and len(np.unique(numpy_helper.to_array(t)[:4096])) > 2]
    return sum(int(np.prod(t.dims)) for t in weights)


def is_native(model: onnx.ModelProto) -> bool:
    found = check_model(read(model), settings_for("cuda:h200", None))
    return {x.where for x in found.nodes} <= {"native", "constant"} and not found.unsized


def unknown(model: onnx.ModelProto) -> list[str]:
    """Values of which shape inference does not know the type and rank."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    known = {x.name for x in (*inferred.value_info, *inferred.output) if x.type.tensor_type.HasField("shape")}
    return [x for n in model.graph.node for x in n.output if x not in known]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_small_graphs_are_complete_and_native(name: str) -> None:
    for dtype in ("float32", "float16"):
        model = graph(name, batch=2, dtype=dtype, small=True)
        onnx.checker.check_model(model, full_check=True)
        assert not unknown(model)
        assert is_native(model)
        kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[dtype]
        assert {x.type.tensor_type.elem_type for x in model.graph.output} == {kind}


def outputs(model: onnx.ModelProto, feeds: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def test_weights_come_from_the_seed() -> None:
    first, second, other = (case("nerf_64", small=True, seed=x) for x in (0, 0, 1))
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert first.model.SerializeToString() != other.model.SerializeToString()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_small_models_agree_with_onnx_runtime(name: str) -> None:
    given = case(name, batch=2, small=True)
    wanted = outputs(given.model, dict(given.feeds))
    for dtype, tolerance in (("float32", 1e-5), ("float16", 1e-2)):
        model, feeds = in_dtype(given, dtype)
        for a, b in zip(tilewright.compile(model, "cpu").run(None, feeds), wanted, strict=True):
            assert np.linalg.norm(a.astype(np.float64) - b) <= tolerance * np.linalg.norm(b)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_published_graphs_have_the_published_sizes(name: str) -> None:
    model = case(name).model
    onnx.checker.check_model(model, full_check=True)
    assert not unknown(model)
    assert is_native(model)
    assert parameters(model) == PARAMETERS.get(name, parameters(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2", "vit_s32"])
def test_published_sizes_agree_with_onnx_runtime(name: str) -> None:
    given = case(name)
    (wanted,) = outputs(given.model, dict(given.feeds))
    (found,) = tilewright.compile(given.model, "cpu").run(None, dict(given.feeds))
    assert np.linalg.norm(found - wanted) <= 1e-4 * np.linalg.norm(wanted)
