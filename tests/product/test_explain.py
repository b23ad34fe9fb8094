"""`explain`: every slot that decides says what it decided and why, from a model or an artifact."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.product.models import save_model
from tilewright.api import settings_for
from tilewright.compiler import Plan, plan_model
from tilewright.config.binding import Settings

Tw = Callable[..., Any]


@pytest.fixture
def loop(tmp_path: Path) -> Path:
    """y = x after five times x = relu(x - 1) while the sum of x is above 0, of a transposed x."""
    body = helper.make_graph(
        [
            helper.make_node("Sub", ["state", "one"], ["less"]),
            helper.make_node("Relu", ["less"], ["next"]),
            helper.make_node("ReduceSum", ["next"], ["sum"], keepdims=0),
            helper.make_node("Greater", ["sum", "zero"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [4, 3]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [4, 3]),
        ],
    )
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"]),
        helper.make_node("Exp", ["turned"], ["start"]),
        helper.make_node("Loop", ["count", "", "start"], ["y"], body=body),
    ]
    path = save_model(
        tmp_path / "loop.onnx",
        nodes,
        {"x": (3, 4)},
        {"y": (4, 3)},
        {"one": np.float32(1).reshape(()), "zero": np.float32(0).reshape(())},
    )
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.int64(5).reshape(()), "count"))
    onnx.save(model, path)
    return path


def by_slot(decisions: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for decision in decisions:
        assert decision["subject"] not in found.setdefault(decision["slot"], {})
        found[decision["slot"]][decision["subject"]] = decision
    return found


@pytest.mark.parametrize("target", ["cpu", "cuda:h200", "cuda:v100"])
def test_every_slot_that_decides_says_why(tw: Tw, loop: Path, target: str) -> None:
    """cuda:v100 can only be planned for."""
    result = tw("explain", loop, "--target", target, "--json")
    assert result.code == 0, result.err
    found = by_slot(json.loads(result.out))
    assert set(found) == {"control_rewrite", "connect", "propose", "schedule", "control_place", "storage"}
    assert all(entry["why"] for entries in found.values() for entry in entries.values())
    assert found["control_rewrite"]["module"]["chosen"] == {"loops": 1, "branches": 0}

    joined = {name: entry["chosen"] for name, entry in found["connect"].items()}
    assert joined["turned"] == "read through"
    # Relu joins Sub, Greater joins the sum; the sum is a kernel of its own, since it is read with another shape.
    assert joined["next"] == joined["less"] == {"kernel": "less"}
    assert joined["on"] == joined["sum"] == {"kernel": "sum"}
    assert set(found["propose"]) == set(found["schedule"]) == {"start", "less", "sum"}
    for entry in found["propose"].values():
        assert len(entry["costs"]) == len(entry["alternatives"]) + 1
        assert entry["costs"] == sorted(entry["costs"])

    (place,) = found["control_place"].values()
    assert place["chosen"] == {"level": "host"}
    inner = sum(found["propose"][name]["costs"][0] for name in ("less", "sum"))
    np.testing.assert_allclose(place["costs"], [5 * inner])

    storage = found["storage"]["workspace"]
    assert storage["chosen"]["peak_bytes"] > 0
    assert storage["alternatives"][0]["bytes_without_sharing"] > 0


def test_what_keeps_an_operator_out_of_a_kernel_is_said(tw: Tw, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
        *(helper.make_node("Add", [f"z{i}", f"x{i}"], [f"z{i + 1}"]) for i in range(40)),
    ]
    inputs = {"x": (4, 4), "z0": (4, 4), **{f"x{i}": (4, 4) for i in range(40)}}
    outputs = {"y": (4, 4), "z40": (4, 4)}
    model = save_model(tmp_path / "m.onnx", nodes, inputs, outputs, {"w": np.eye(4, dtype="f4")})
    found = by_slot(json.loads(tw("explain", model, "--json").out))["connect"]
    assert found["b"]["why"] == "it is not element-wise, so it starts a kernel"
    assert found["y"]["chosen"] == {"kernel": "b"}
    assert found["a"]["why"] == "no kernel makes its operands, so it starts one"
    (first,) = [name for name, entry in found.items() if entry["alternatives"]]
    kernel = found["z1"]["chosen"]["kernel"]
    refused = {"kernel": kernel, "refused": "the kernel would have 33 reads, more than 32"}
    assert found[first]["alternatives"] == [refused]
    assert found[first]["chosen"] == {"kernel": first}
    assert found[first]["why"] == "no kernel of its operands takes it, so it starts one"


def test_a_model_and_its_artifact_are_explained_alike(tw: Tw, loop: Path, tmp_path: Path) -> None:
    assert tw("compile", loop, "-o", tmp_path / "m.tw").code == 0
    assert json.loads(tw("explain", loop, "--json").out) == json.loads(tw("explain", tmp_path / "m.tw", "--json").out)
    for options in ((), ("--alternatives",), ("--slot", "propose", "--about", "sum")):
        of_model, of_artifact = tw("explain", loop, *options), tw("explain", tmp_path / "m.tw", *options)
        assert of_model.out == of_artifact.out
        assert of_model.out
    text = tw("explain", loop).out
    for words in ("connect = epilogue", "schedule = one-kernel", "control_place = host", "µs", "read through"):
        assert words in text
    assert text.index("connect =") < text.index("propose =") < text.index("storage")
    assert len(tw("explain", loop, "--alternatives").out) > len(text)
    assert "Nothing was decided" in tw("explain", loop, "--about", "no such").out


def test_explaining_a_model_builds_nothing(tw: Tw, dense: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a build")

    monkeypatch.setattr("tilewright.compiler.build_program", refuse)
    assert tw("explain", dense).code == 0
    assert not cache.exists() or not [p for p in cache.iterdir() if len(p.name) == 64]


def test_what_a_service_leaves_out_is_taken_from_its_answer(loop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third party's services need not call `decide`."""

    def subjects(plan: Plan) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for decision in plan.decisions:
            found.setdefault(decision.slot, set()).add(decision.subject)
        return found

    settings = settings_for("cpu", {"slots": {"connect": "singletons"}})
    told = subjects(plan_model(str(loop), settings))
    service = Settings.service

    def silent(self: Settings, slot: str) -> Any:
        inner = service(self, slot)
        if slot not in ("control_rewrite", "connect", "schedule", "control_place"):
            return inner

        def call(subject: Any, request: Any) -> Any:
            decide, request.session.decide = request.session.decide, lambda *_, **__: None
            try:
                return inner(subject, request)
            finally:
                request.session.decide = decide

        return call

    monkeypatch.setattr(Settings, "service", silent)
    plan = plan_model(str(loop), settings)
    assert subjects(plan) == told
    assert attrs.asdict(plan.decisions[0])["why"] == ""
