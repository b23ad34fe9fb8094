"""The benchmark of models: its graphs have the papers' sizes, are native, and agree with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

import tilewright
from benchmarks.measuring import Worker
from benchmarks.models.cells import FOLDER, cells
from benchmarks.models.graphs import MODELS, case, graph, in_dtype
from benchmarks.models.graphs.moe import moe_block
from benchmarks.models.utilisation import busy, draw
from tilewright.api import settings_for
from tilewright.check import check_model
from tilewright.frontend.source import read

PARAMETERS = {
    "alexnet": 61_100_840,
    "bert": 109_482_240 - 256 * 768,  # a table of 256 positions is enough
    "bsrn": 352_400,
    "deepspeech2": 32 * 41 * 11
    + 32 * 32 * 21 * 11
    + 4 * 32  # convolutions and their normalisations
    + 4 * 256 * (32 * 86 + 256 + 1)
    + 6 * 4 * 256 * (256 + 256 + 1)
    + 2 * 256
    + 29 * (256 + 1),
    "inception_block": 2048 * (320 + 384 + 448 + 192)
    + 9 * 448 * 384
    + 4 * 3 * 384 * 384  # torchvision's Mixed_7c
    + 2 * (320 + 384 + 448 + 384 + 4 * 384 + 192),
    "lstm": 10 * 4 * 256 * (256 + 256 + 1),
    "mobilenet_v2": 3_504_872,
    "mobilevit_s": 5_578_632,
    "moe_block": 768 * 8 + 8 * (2 * 768 * 3072 + 3072 + 768),
    "nasnet_mobile": 5_289_978,
    "resnet50": 25_557_032,
    "resnext101": 44_177_704,
    "resnext50": 25_028_904,
    "seq2seq": (8 + 4) * 4 * 128 * (128 + 128 + 1),
    "shufflenet_v2": 2_278_604,
    "swin_t": 28_288_354,
    "unet": 31_037_698 + 98 * 65,  # the count is known for 2 classes
    "vgg16": 138_357_544,
    "vit_b16": 86_567_656,
    "vit_s32": 22_878_952,
}
"""What torchvision, timm, transformers and the papers' own code count, without running statistics; or sums by hand."""


def of_resnext29() -> int:
    """ResNeXt-29 (16 × 64d), which has 68.1 million by table 7 of its paper."""
    total, inputs = 3 * 9 * 64 + 2 * 64, 64
    for inner, outputs in ((1024, 256), (2048, 512), (4096, 1024)):
        grouped = inner // 16 * 9 * inner
        block = grouped + inner * outputs + 2 * (2 * inner + outputs)  # without the first convolution
        total += 3 * block + (inputs + 2 * outputs) * inner + inputs * outputs + 2 * outputs
        inputs = outputs
    return total + 10 * (inputs + 1)


def of_nasnet_cifar() -> int:
    """NASNet-A (6 @ 768), which has 3.3 million by table 1 of its paper."""

    def point(inputs: int, outputs: int) -> int:
        return inputs * outputs + 2 * outputs

    def separable(kernel: int, inputs: int, outputs: int) -> int:
        return inputs * kernel**2 + point(inputs, outputs) + outputs * kernel**2 + point(outputs, outputs)

    # The first cell reads 96 channels as its "one before": three separable ones, three others, and the join.
    total = 3 * 9 * 96 + 2 * 96 + point(96, 32) + separable(5, 32, 32) + separable(3, 32, 32)
    total += separable(5, 96, 32) + 2 * separable(3, 96, 32) + 4 * point(96, 32)
    last, before = 6 * 32, 96
    for width in (32, 64, 128):
        if width > 32:
            total += point(last, width) + point(before, width) + separable(3, width, width)
            total += 2 * separable(5, width, width) + 2 * separable(7, width, width)
            last, before = 4 * width, last
        for _ in range(5 if width == 32 else 6):
            total += point(last, width) + point(before, width)
            total += 2 * separable(5, width, width) + 3 * separable(3, width, width)
            last, before = 6 * width, last
    return total + 10 * (768 + 1)


PARAMETERS |= {"nasnet_cifar": of_nasnet_cifar()}
PARAMETERS |= dict.fromkeys(("resnext29", "resnext29_paths"), of_resnext29())


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


@pytest.mark.sampled(3)
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


@pytest.mark.slow(every=4)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_small_models_agree_with_onnx_runtime(name: str) -> None:
    given = case(name, batch=2, small=True)
    wanted = outputs(given.model, dict(given.feeds))
    for dtype, tolerance in (("float32", 1e-5), ("float16", 1e-2)):
        model, feeds = in_dtype(given, dtype)
        for a, b in zip(tilewright.compile(model, "cpu").run(None, feeds), wanted, strict=True):
            assert np.linalg.norm(a.astype(np.float64) - b) <= tolerance * np.linalg.norm(b)


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_published_graphs_have_the_published_sizes(name: str) -> None:
    model = case(name).model
    onnx.checker.check_model(model, full_check=True)
    assert not unknown(model)
    assert is_native(model)
    assert parameters(model) == PARAMETERS.get(name, parameters(model))


def test_unrolled_steps_share_their_weights() -> None:
    for name, layers, steps in (("lstm", 2, 2 * 4), ("seq2seq", 4, 2 * 4 + 2 * 3), ("deepspeech2", 2, 2 * 4)):
        nodes = case(name, small=True).model.graph.node
        recurrent = [n for n in nodes if n.op_type == "Gemm" and len(n.input) == 2]
        assert len(recurrent) == steps
        assert len({n.input[1] for n in recurrent}) == layers


def routed(x: Any, weights: list[Any], chosen: int, capacity: int) -> tuple[Any, int]:
    """A mixture of experts, token by token, in float64; and how many of the choices found no place."""
    router, *experts = (np.asarray(w, np.float64) for w in weights)
    scores = x @ router
    shares = np.zeros_like(scores)
    for row, share in zip(scores, shares, strict=True):
        best = np.argsort(-row)[:chosen]
        share[best] = np.exp(row[best]) / np.exp(row[best]).sum()
    y, dropped = x.astype(np.float64), 0
    for number in range(router.shape[1]):
        up, rise, down, shift = experts[4 * number : 4 * number + 4]
        wanting = [t for t in np.argsort(-shares[:, number]) if shares[t, number] > 0]
        dropped += len(wanting[capacity:])
        for t in wanting[:capacity]:
            y[t] += shares[t, number] * (down @ np.maximum(up @ x[t] + rise, 0) + shift)
    return y, dropped


def moe_weights(model: onnx.ModelProto) -> list[Any]:
    """Of the router, then four of each expert."""
    arrays = [numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    return [a for a in arrays if a.any()]


@pytest.mark.parametrize(("spare", "drops"), [(2.0, False), (1.0, True)])
def test_a_token_goes_through_its_experts_alone(spare: float, drops: bool) -> None:
    given = moe_block(sequence=40, hidden=16, inner=24, spare=spare)
    (found,) = outputs(given.model, dict(given.feeds))
    wanted, dropped = routed(given.feeds["tokens"], moe_weights(given.model), 2, int(spare * 10))
    assert (dropped > 0) == drops
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    products = [n for n in given.model.graph.node if n.op_type == "Gemm"]
    assert len(products) == 2 * 8


@pytest.mark.slow
def test_rounding_moves_no_token_to_another_expert() -> None:
    """Or float16 could not be compared with float32."""
    for batch in {c.batch for c in cells(FOLDER / "rammer.csv") if c.model == "moe_block"}:
        given = case("moe_block", batch)
        router, x = moe_weights(given.model)[0], given.feeds["tokens"]
        _, second, third, *_ = np.sort(x @ router).T[::-1]
        assert (second - third > 4 * np.spacing(np.abs(second).astype(np.float16))).all()


@pytest.mark.full
@pytest.mark.parametrize("name", ["mobilenet_v2", "moe_block", "nasnet_cifar", "shufflenet_v2", "vit_s32"])
def test_published_sizes_agree_with_onnx_runtime(name: str) -> None:
    given = case(name)
    (wanted,) = outputs(given.model, dict(given.feeds))
    (found,) = tilewright.compile(given.model, "cpu").run(None, dict(given.feeds))
    assert np.linalg.norm(found - wanted) <= 1e-4 * np.linalg.norm(wanted)


def test_how_many_multiprocessors_are_at_work() -> None:
    """Of two: one for all of ten microseconds, in two tasks that overlap; the other for the last five."""
    spans = [(0, 0.0, 6.0), (0, 4.0, 6.0), (1, 5.0, 5.0)]
    bars = [{"ph": "X", "tid": unit, "ts": first, "dur": took} for unit, first, took in spans]
    trace = {"traceEvents": [*({"ph": "M", "tid": unit} for unit in range(2)), *bars]}
    curve, mean, end = busy(trace, 4)
    assert curve == pytest.approx([0.5, 0.5, 1.0, 1.0])
    assert (mean, end) == (pytest.approx(0.75), 10.0)
    assert busy(trace, 4, 20.0)[0] == pytest.approx([0.5, 1.0, 0.0, 0.0])
    text = draw({"before & after": trace})
    assert "before &amp; after: 10 µs, busy 75% of the time" in text
    assert text.count("<polygon") == 1


def test_an_engine_that_is_late_is_ended(tmp_path: Path) -> None:
    worker = Worker("slow", tmp_path, "tests.product.slow_engine", 1)
    assert worker.ask(0.5, do="prepare") is None
    assert worker.error == "not ready after 0.5 s"
    assert worker.ended
    assert worker.ask(do="warm") is None
    worker.close()
