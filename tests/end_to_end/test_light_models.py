"""The light models with seeded weights, compiled for this CPU and compared with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import tilewright
from tilewright.compare import compare_outputs
from tilewright.runtime.random_feeds import random_feeds
from tilewright.testing.seeded import light_model, light_names

QUICK = ("squeezenet", "shufflenet")


def models() -> list[object]:
    """Every light model; all but the quick ones in the slow tier."""
    return [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow(every=2)) for x in light_names()]


@pytest.mark.parametrize("name", models())
def test_a_light_model_agrees_with_onnx_runtime(name: str, tmp_path: Path) -> None:
    model = light_model(name)
    program = tilewright.compile(model, target="cpu")
    program.save(tmp_path / "model.tw")
    loaded = tilewright.load(tmp_path / "model.tw")
    feeds = random_feeds(loaded.inputs, 0)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    names = [x.name for x in loaded.outputs]
    for agreement in compare_outputs(names, loaded.run(None, feeds), expected):
        assert agreement.ok, agreement


def test_a_wrong_weight_is_seen() -> None:
    """The seeded variant is sharp: one transposed weight turns the comparison red."""
    model = light_model("squeezenet")
    program = tilewright.compile(model, target="cpu")
    feeds = random_feeds(program.inputs, 0)
    weight = next(x for x in model.graph.initializer if list(x.dims[2:]) == [3, 3])
    data = np.frombuffer(weight.raw_data, np.float32).reshape(weight.dims)
    weight.raw_data = np.ascontiguousarray(data.transpose(0, 1, 3, 2)).tobytes()
    wrong = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    names = [x.name for x in program.outputs]
    assert not all(x.ok for x in compare_outputs(names, program.run(None, feeds), wrong))
