"""Whatever is changed in an artifact whose digests are right again: it runs, or it is refused as bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilewright
from tests.product import crafted
from tilewright.artifact import ArtifactError

ROOT = Path(__file__).resolve().parents[2]


def outcomes(artifact: Path, folder: Path, stride: int) -> list[tuple[str, int, str]]:
    command = [sys.executable, "-m", "tests.product.crafted", str(artifact), str(folder), str(stride)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [(words, code, text) for words, code, text in json.loads(result.stdout)]


@pytest.fixture(scope="module")
def artifact(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "good.tw"
    with tilewright.compile(dense, target="cpu") as program:
        program.save(path)
    return path


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact that holds a model."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["a"]), helper.make_node("Mul", ["a", "w"], ["y"])]
    x, shape, y = (
        helper.make_tensor_value_info(name, dtype, extents)
        for name, dtype, extents in (
            ("x", TensorProto.FLOAT, [1, 2]),
            ("shape", TensorProto.INT64, [1]),
            ("y", TensorProto.FLOAT, ["n"]),
        )
    )
    weight = numpy_helper.from_array(np.ones(1, np.float32), "w")
    graph = helper.make_graph(nodes, "g", [x, shape], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("artifact") / "steered.tw"
    with tilewright.compile(model, target="cpu") as program:
        program.save(path)
    return path


@pytest.mark.parametrize("stride", [pytest.param(41, id="some"), pytest.param(3, id="many", marks=pytest.mark.slow)])
def test_no_change_of_a_model_ends_in_a_fault(steered: Path, tmp_path: Path, stride: int) -> None:
    for words, code, text in outcomes(steered, tmp_path, stride):
        assert code in (0, 2), (words, code, text)
        assert "Traceback" not in text, (words, text)


@pytest.mark.parametrize("stride", [pytest.param(11, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_no_change_ends_in_a_fault(artifact: Path, tmp_path: Path, stride: int) -> None:
    found = outcomes(artifact, tmp_path, stride)
    assert len(found) > 200
    for words, code, text in found:
        assert code in (0, 2), (words, code, text)
        assert "Traceback" not in text, (words, text)
        if code == 2:
            assert text.startswith("error: "), (words, text)
            assert len(text.splitlines()) <= 2, (words, text)
    assert {code for _, code, _ in found} == {0, 2}


def test_an_artifact_that_was_taken_apart_and_put_together_runs(artifact: Path, tmp_path: Path) -> None:
    """So that what is refused above is the change."""
    members = crafted.read(artifact)
    crafted.write(tmp_path / "same.tw", crafted.sealed(members))
    assert crafted.ended("run", tmp_path / "same.tw", tmp_path / "output.txt") == 0


def test_the_library_of_another_program_is_refused(artifact: Path, symbolic: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.tw"
    with tilewright.compile(symbolic, target="cpu", shapes={"x": (3, 4)}) as program:
        program.save(other)
    members = crafted.read(artifact) | {crafted.LIBRARY: crafted.read(other)[crafted.LIBRARY]}
    crafted.write(tmp_path / "mixed.tw", crafted.sealed(members))
    with pytest.raises(ArtifactError, match=r"library.*of another program"):
        tilewright.load(tmp_path / "mixed.tw")
