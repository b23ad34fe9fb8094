"""Every subset of the installed techniques agrees with the reference: on tiny models, and where control flows.

A technique that is installed is in the study by itself: its slot values are what its plugin registers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import tilewright
from benchmarks.control_flow import models as control_flow
from benchmarks.control_flow.cells import Cell
from benchmarks.control_flow.prepare import outputs as reference
from tests.product.models import save_model
from tilewright.compare import compare_outputs
from tilewright.config import Config, load_config
from tilewright.config.loading import load_mapping
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import SLOTS, SlotValue
from tilewright.study.design import Arm, arms

STUDY = Path(__file__).parents[2] / "benchmarks" / "studies" / "techniques.toml"
TECHNIQUES = ("roller", "welder", "grinder", "rammer")
RNG = np.random.default_rng(0)


def _weight(*shape: int) -> np.ndarray[Any, Any]:
    return (RNG.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def _node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def dense(path: Path) -> Path:
    nodes = [
        _node("Gemm", "x w1 b1", "a"),
        _node("Relu", "a", "b"),
        _node("MatMul", "b w2", "c"),
        _node("Add", "c x", "d"),
        _node("LayerNormalization", "d s", "y", axis=-1),
    ]
    weights = {"w1": _weight(12, 20), "b1": _weight(20), "w2": _weight(20, 12), "s": _weight(12) + 1}
    return save_model(path, nodes, {"x": (5, 12)}, {"y": (5, 12)}, weights)


def attention(path: Path) -> Path:
    nodes = []
    for name in "qkv":
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [
            _node("MatMul", f"x w{name}", f"{name}0"),
            _node("Reshape", f"{name}0 heads", f"{name}1"),
            _node("Transpose", f"{name}1", name, perm=perm),
        ]
    nodes += [
        _node("MatMul", "q k", "s0"),
        _node("Mul", "s0 scale", "s1"),
        _node("Softmax", "s1", "p", axis=-1),
        _node("MatMul", "p v", "o0"),
        _node("Transpose", "o0", "o1", perm=[0, 2, 1, 3]),
        _node("Reshape", "o1 flat", "o2"),
        _node("MatMul", "o2 wo", "y"),
    ]
    weights = {f"w{n}": _weight(8, 8) for n in "qkvo"}
    weights |= {"heads": np.array([0, 0, 2, 4]), "flat": np.array([0, 0, 8]), "scale": np.float32(0.5)}
    return save_model(path, nodes, {"x": (1, 6, 8)}, {"y": (1, 6, 8)}, weights)


def recurrent(path: Path) -> Path:
    nodes = [
        _node("GRU", "x w r", "h last", hidden_size=5),
        _node("Squeeze", "h axes", "s"),
        _node("Tanh", "s", "y"),
    ]
    weights = {"w": _weight(1, 15, 4), "r": _weight(1, 15, 5), "axes": np.array([1])}
    return save_model(path, nodes, {"x": (7, 2, 4)}, {"y": (7, 2, 5)}, weights)


def branching(path: Path) -> Path:
    nodes = [
        _node("Conv", "x w1", "a"),
        _node("Relu", "a", "b"),
        _node("Conv", "b w3", "c", pads=[1, 1, 1, 1]),
        _node("Conv", "b w2", "d"),
        _node("MaxPool", "b", "e", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]),
        _node("Concat", "c d e", "f", axis=1),
        _node("Sigmoid", "f", "g"),
        _node("Mul", "f g", "h"),
        _node("GlobalAveragePool", "h", "y"),
    ]
    weights = {"w1": _weight(4, 3, 1, 1), "w2": _weight(3, 4, 1, 1), "w3": _weight(5, 4, 3, 3)}
    return save_model(path, nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 12, 1, 1)}, weights)


MODELS: dict[str, tuple[Callable[[Path], Path], tuple[int, ...]]] = {
    "dense": (dense, (5, 12)),
    "attention": (attention, (1, 6, 8)),
    "recurrent": (recurrent, (7, 2, 4)),
    "branching": (branching, (1, 3, 8, 8)),
}


def power_set() -> list[Arm]:
    """Every subset of the techniques, with the default connector's joining and without."""
    registry = Registry()
    registry.load(TECHNIQUES)
    slots: dict[str, str] = {}
    factors: dict[str, dict[str, dict[str, str]]] = {"fusion": {"none": {"connect": "singletons"}}}
    for record in registry.records(SlotValue).values():
        technique = registry.provider(record).name
        if technique in TECHNIQUES:
            slots[record.slot] = record.name
            factors.setdefault(technique, {"off": {}})["off"][record.slot] = SLOTS[record.slot]
    mapping = {"slots": slots, "study": {"design": "power-set", "factors": factors}}
    config: Config = load_config(mapping)
    assert config.study is not None
    return arms(mapping, config.study)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("arm", power_set(), ids=lambda arm: arm.name.replace(" ", ","))
@pytest.mark.parametrize("name", MODELS)
def test_every_subset_of_the_techniques_agrees(name: str, arm: Arm, tmp_path: Path) -> None:
    make, shape = MODELS[name]
    model = make(tmp_path / f"{name}.onnx")
    feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    expected = ReferenceEvaluator(str(model)).run(None, feeds)
    with tilewright.compile(model, target="cpu", config=arm.mapping) as program:
        outputs = program.run(None, feeds)
    for agreement in compare_outputs(["y"], outputs, expected):
        assert agreement.ok, agreement


def techniques() -> list[Arm]:
    """The sixteen arms of our own study of the four techniques."""
    mapping = load_mapping(STUDY)
    study = load_config(mapping).study
    assert study is not None
    return arms(mapping, study)


@pytest.mark.slow(every=7)  # of sixteen arms: another one for each model
@pytest.mark.parametrize("target", ["cpu", pytest.param("cuda:h200", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("arm", techniques(), ids=lambda arm: arm.name.replace(" ", ","))
@pytest.mark.parametrize("name", sorted(control_flow.MODELS))
def test_every_subset_of_the_techniques_agrees_where_control_flows(name: str, arm: Arm, target: str) -> None:
    given = Cell(name, 50 if control_flow.MODELS[name].ratios else 0, 1, small=True).given()
    expected = reference(given)
    with tilewright.compile(given.model, target=target, config=arm.mapping) as program:
        outputs = program.run(None, dict(given.feeds))
    for agreement in compare_outputs([f"output {x}" for x in range(len(expected))], outputs, expected):
        assert agreement.ok, agreement
