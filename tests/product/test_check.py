"""`tilewright check`: what would become of each node."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.product.models import save_model

Tw = Callable[..., Any]


def test_a_model_that_compiles_is_fine(tw: Tw, dense: Path) -> None:
    result = tw("check", dense)
    assert result.code == 0
    assert "MatMul" in result.out
    found = json.loads(tw("check", dense, "--json").out)
    assert found["operators"] == {x: {"native": 1} for x in ("MatMul", "Relu", "Softmax")}
    assert found["allowed"] is True


def test_what_falls_back_is_named_and_allowed_by_the_configuration_only(tw: Tw, picks: Path, tmp_path: Path) -> None:
    result = tw("check", picks, "--shape", "rows=2", "--json")
    assert result.code == 1
    found = json.loads(result.out)
    assert {x["node"]: (x["where"], x["open"]) for x in found["nodes"]} == {
        "first": ("native", []),
        "where": ("reference", []),
        "t": ("specialised", ["n"]),
        "y": ("specialised", ["t"]),
    }
    assert "depends on the data" in found["nodes"][1]["why"]
    assert tw("check", picks, "--fallback", "reference").code == 0
    config = tmp_path / "c.toml"
    config.write_text('schema = 1\nfallback = "reference"\n')
    assert tw("check", picks, "--config", config).code == 0
    config.write_text('schema = 1\nfallback = "referense"\n')
    wrong = tw("check", picks, "--config", config)
    assert wrong.code == 2
    assert "'reference'" in wrong.err


def test_missing_shapes_are_no_obstacle(tw: Tw, picks: Path, symbolic: Path) -> None:
    result = tw("check", picks)
    assert "once there is a shape of 'x'" in result.out
    assert "--shape" in result.err
    assert tw("check", symbolic).code == 0
    found = json.loads(tw("check", picks, "--json").out)
    assert found["unsized"] == {"x": "float32[?, 3]"}
    assert [x["where"] for x in found["nodes"]] == ["native", "reference", "specialised", "specialised"]


def test_inner_nodes_and_unknown_operators(tw: Tw, tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("NonZero", ["s"], ["n"], name="inside"),
            helper.make_node("Size", ["n"], ["k"]),
            helper.make_node("Cast", ["k"], ["f"], to=1),
            helper.make_node("Add", ["s", "f"], ["out"]),
            helper.make_node("Identity", ["c"], ["going"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", 7, []),
            helper.make_tensor_value_info("c", 9, []),
            helper.make_tensor_value_info("s", 1, [3]),
        ],
        [helper.make_tensor_value_info("going", 9, []), helper.make_tensor_value_info("out", 1, [3])],
    )
    loop = helper.make_node("Loop", ["", "", "x"], ["l"], name="outside", body=body)
    strange = helper.make_node("Swish2", ["l"], ["y"], name="odd", domain="com.acme")
    opsets = [helper.make_opsetid("com.acme", 1)]
    path = save_model(tmp_path / "m.onnx", [loop, strange], {"x": (3,)}, {"y": (3,)}, opsets=opsets)
    result = tw("check", path, "--fallback", "reference", "--json")
    assert result.code == 1
    around, odd = json.loads(result.out)["nodes"]
    assert around["where"] == "reference"
    assert "NonZero node 'inside'" in around["inner"]
    assert (odd["where"], odd["operator"]) == ("unsupported", "com.acme.Swish2")
    assert "com.acme" in odd["why"]
    assert "NonZero node 'inside'" in tw("check", path).out


def test_what_an_input_steers(tw: Tw, tmp_path: Path) -> None:
    node = helper.make_node("Expand", ["x", "sizes"], ["y"], name="grow")
    sizes = helper.make_tensor_value_info("sizes", 7, [2])
    x, y = (helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [1, 3]), ("y", ["a", "b"])))
    made = helper.make_model(
        helper.make_graph([node], "g", [x, sizes], [y]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    path = tmp_path / "m.onnx"
    onnx.save(made, path)
    result = tw("check", path, "--json")
    assert result.code == 0
    (found,) = json.loads(result.out)["nodes"]
    assert (found["where"], found["steering"]) == ("specialised", ["sizes"])
    assert tw("check", path, "--no-jit").code == 1
    np.save(tmp_path / "sizes.npy", np.array([4, 3]))
    bound = json.loads(tw("check", path, "--bind", f"sizes={tmp_path / 'sizes.npy'}", "--json").out)
    assert [x["where"] for x in bound["nodes"]] == ["native"]


def test_several_shapes_show_the_worst(tw: Tw, tmp_path: Path) -> None:
    node = helper.make_node("Det", ["x"], ["y"], name="det")
    path = save_model(tmp_path / "m.onnx", [node], {"x": ("n", "n")}, {"y": ()})
    small = json.loads(tw("check", path, "--shape", "n=3", "--json").out)
    both = json.loads(tw("check", path, "--shape", "n=3,200", "--json").out)
    assert [x["where"] for x in small["nodes"]] == ["native"]
    assert [x["where"] for x in both["nodes"]] == ["reference"]
    assert "200x200" in both["nodes"][0]["why"]
