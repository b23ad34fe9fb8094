"""The number of threads is an option of a compilation: planning sees it, and equal numbers give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import tilewright
from tests.product.models import save_model
from tilewright.api import compile_artifact, settings_for
from tilewright.artifact import Artifact
from tilewright.compiler import device_of
from tilewright.device import DeviceModel, MemoryLevel

Tw = Callable[..., Any]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix product that is large enough to be shared out."""
    w = np.random.default_rng(0).standard_normal((256, 512)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = tmp_path_factory.mktemp("models") / "product.onnx"
    return save_model(path, nodes, {"x": (192, 256)}, {"y": (192, 512)}, {"w": w})


def compiled(model: Path, out: Path, target: str = "cpu", threads: int | None = None) -> bytes:
    artifact, _ = compile_artifact(model, settings_for(target, None, threads=threads), cache=False)
    with artifact:
        artifact.copy_to(out)
    return out.read_bytes()


def test_a_device_with_other_units() -> None:
    levels = (MemoryLevel("dram", 1 << 40, 5.0, shared_by_units=True), MemoryLevel("l1", 1024, 8.0))
    device = DeviceModel("d", "cpu", "d", 4, {"fma": 12.0}, levels).with_units(2)
    assert (device.units, device.peak) == (2, {"fma": 6.0})
    assert [(x.bytes, x.bandwidth) for x in device.levels] == [(1 << 40, 5.0), (1024, 4.0)]


def test_planning_sees_the_threads_that_the_program_will_have(product: Path, tmp_path: Path) -> None:
    """The device has them, and the predicted time of a product that sixteen threads can share falls."""
    costs = []
    for threads in (1, 16):
        assert device_of(settings_for("cpu", None, threads=threads)).units == threads
        compiled(product, tmp_path / "p.tw", threads=threads)
        with Artifact(tmp_path / "p.tw") as artifact:
            assert artifact.manifest.threads == threads
            (variant,) = artifact.manifest.variants
            (chosen,) = (x for x in artifact.decisions(variant) if x["slot"] == "propose")
        costs.append(chosen["costs"][0])
    assert costs[0] > 4 * costs[1]


def test_equal_threads_make_equal_bytes_wherever_the_number_comes_from(
    product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = compiled(product, tmp_path / "a.tw", threads=3)
    monkeypatch.setenv("TILEWRIGHT_NUM_THREADS", "3")
    assert compiled(product, tmp_path / "b.tw") == given
    assert compiled(product, tmp_path / "c.tw", threads=5) != given


def test_a_program_for_a_gpu_does_not_depend_on_them(product: Path, tmp_path: Path) -> None:
    one, two = (compiled(product, tmp_path / f"{n}.tw", "cuda:sm_80", n) for n in (1, 7))
    assert one == two
    with Artifact(tmp_path / "1.tw") as artifact:
        assert artifact.manifest.threads == 0


def test_the_cache_tells_numbers_of_threads_apart(tw: Tw, cache: Path, product: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.tw"
    answers = [json.loads(tw("compile", product, "-o", out, "--threads", n, "--json").out) for n in (1, 2, 1, 2)]
    assert [x["cached"] for x in answers] == [False, False, True, True]
    assert "2 threads" in tw("inspect", out).out


@pytest.mark.parametrize("planned", [1, 6])
def test_it_runs_with_another_number_than_it_was_planned_for(product: Path, tmp_path: Path, planned: int) -> None:
    x = np.random.default_rng(1).standard_normal((192, 256)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(str(product)).run(None, {"x": x})
    compiled(product, tmp_path / "p.tw", threads=planned)
    for threads in (1, 2, 5):
        with tilewright.load(tmp_path / "p.tw", threads=threads) as program:
            np.testing.assert_allclose(program.run(None, {"x": x})[0], wanted, rtol=1e-4, atol=1e-4)
