"""Several shapes in one artifact: right for each, weights stored once, and clear errors for others."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import tilewright
from tests.onnx_runtime import expected
from tests.product.models import save_model
from tilewright.artifact import Artifact
from tilewright.errors import InputError

RNG = np.random.default_rng(3)
WEIGHTS = {"w": RNG.standard_normal((64, 96)).astype(np.float32), "b": RNG.standard_normal(96).astype(np.float32)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = softmax((x @ w + b) * scale), with the batch and the length open on both inputs."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Mul", ["c", "scale"], ["d"]),
        helper.make_node("Softmax", ["d"], ["y"], axis=-1),
    ]
    path = tmp_path_factory.mktemp("models") / "dense.onnx"
    shapes: dict[str, Any] = {"x": ("batch", "seq", 64), "scale": ("batch", "seq", 1)}
    return save_model(path, nodes, shapes, {"y": ("batch", "seq", 96)}, WEIGHTS)


def feeds(batch: int, seq: int) -> dict[str, Any]:
    rng = np.random.default_rng([batch, seq])
    return {
        "x": rng.standard_normal((batch, seq, 64)).astype(np.float32),
        "scale": rng.standard_normal((batch, seq, 1)).astype(np.float32),
    }


def test_each_combination_is_right_and_equal_weights_are_stored_once(model: Path, tmp_path: Path) -> None:
    with tilewright.compile(model, target="cpu", shapes={"batch": 4, "seq": 8}, cache=False) as one:
        assert [str(x) for x in one.inputs] == ["float32[4, 8, 64]", "float32[4, 8, 1]"]
    with tilewright.compile(model, target="cpu", shapes={"batch": [4, 2], "seq": [8, 16]}, cache=False) as program:
        program.save(tmp_path / "four.tw")
    with Artifact(tmp_path / "four.tw") as artifact:
        stored = artifact.weights()
        asked = [set(variant.weights.values()) for variant in artifact.manifest.variants]
    assert set.union(*asked) == set(stored)
    assert len({array.tobytes() for array in stored.values()}) == len(stored)
    assert len(stored) < sum(map(len, asked)) / 2  # kernels of different shapes may read differently packed weights
    reference = onnx.load(model)
    with tilewright.load(tmp_path / "four.tw") as program:
        assert [str(x) for x in program.inputs] == ["float32[batch, seq, 64]", "float32[batch, seq, 1]"]
        assert [str(x) for x in program.outputs] == ["float32[batch, seq, 96]"]
        assert program.stats.loaded == 0
        for number, (batch, seq) in enumerate([(2, 16), (4, 8), (2, 16), (2, 8), (4, 16)]):
            given = feeds(batch, seq)
            (y,) = program.run(None, given)
            np.testing.assert_allclose(y, expected(reference, given)[0], rtol=1e-4, atol=1e-5)
            assert program.stats.loaded == (1, 2, 2, 3, 4)[number]
        for shapes in ((3, 8), (4, 9)):
            with pytest.raises(InputError, match=r"It has: x=4x8x64 scale=4x8x1; x=4x16x64.*--shape"):
                program.run(None, feeds(*shapes))


def test_choosing_a_variant_takes_microseconds(model: Path) -> None:
    shapes = {"batch": list(range(1, 9)), "seq": [1]}
    with tilewright.compile(model, target="cpu", shapes=shapes) as program:
        step = program._pipeline._steps[0][1]  # type: ignore[union-attr]
        arrays = list(feeds(5, 1).values())
        start = time.perf_counter()
        for _ in range(1000):
            step._choose(arrays)  # type: ignore[attr-defined]
        assert time.perf_counter() - start < 0.1  # 100 µs each on a busy machine; it takes less than 2


def test_the_command_line_makes_runs_and_shows_them(model: Path, tw: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "v.tw"
    assert tw("compile", model, "-o", path, "--shape", "batch=1,3", "--shape", "seq=2").code == 0
    with Artifact(path) as artifact:
        assert [v.library for v in artifact.manifest.variants] == ["library.so", "library-1.so"]
    shown = tw("inspect", path).out
    assert "x=float32[1, 2, 64] scale=float32[1, 2, 1]" in shown
    assert "x=float32[3, 2, 64] scale=float32[3, 2, 1]" in shown
    np.savez(tmp_path / "feeds.npz", **feeds(3, 2))
    assert tw("run", path, "--input", tmp_path / "feeds.npz").code == 0
    assert tw("run", path).code == 0
    np.save(tmp_path / "x.npy", feeds(3, 2)["x"])
    assert tw("run", path, "--input", f"x={tmp_path / 'x.npy'}").code == 0
    assert '"program": 1' in tw("explain", path, "--json").out
    compared = tw("compare", model, "--shape", "batch=1,3", "--shape", "seq=2", "--json")
    assert compared.code == 0
    outputs = json.loads(compared.out)["outputs"]
    assert [x["inputs"] for x in outputs] == [f"x=float32[{n}, 2, 64] scale=float32[{n}, 2, 1]" for n in (1, 3)]
    for wrong, words in (("bach=1", "'batch'"), ("batch=1,x", "batch=4"), ("batch=1x2", "'batch' is a dimension")):
        refused = tw("compile", model, "-o", tmp_path / "no.tw", "--shape", wrong)
        assert refused.code == 2
        assert words in refused.err
