"""`tilewright fuzz`: what it counts, and what becomes of a failure."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.onnx_runtime import expected
from tests.product.conftest import Tw
from tilewright.testing import fuzz
from tilewright.testing.fuzz_graphs import draw_graph


def test_a_run_says_its_seed_and_counts_operators(tw: Tw, tmp_path: Path) -> None:
    result = tw("fuzz", "--seed", 40, "--count", 25, "--target", "cpu", "--out", tmp_path / "out", "--json")
    found = json.loads(result.out)
    assert (result.code, found["seed"], found["graphs"]) == (0, 40, 25), found
    assert sum(found["operators"].values()) == sum(len(draw_graph(seed).operators) for seed in range(40, 65))
    assert not (tmp_path / "out").exists(), "nothing failed, nothing is written"


def test_without_a_seed_one_is_drawn_and_said(tw: Tw, tmp_path: Path) -> None:
    seeds = {json.loads(tw("fuzz", "--count", 1, "--out", tmp_path, "--json").out)["seed"] for _ in range(2)}
    assert len(seeds) == 2


def test_time_ends_a_run(tw: Tw, tmp_path: Path) -> None:
    assert json.loads(tw("fuzz", "--seconds", 0, "--out", tmp_path, "--json").out)["graphs"] == 0


def test_a_wrong_answer_leaves_a_reproducer(tw: Tw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = functools.partial(fuzz.campaign, task="tests.product.planted:shifting")
    monkeypatch.setattr(fuzz, "campaign", planted)
    result = tw("fuzz", "--seed", 0, "--count", 200, "--stop", "--out", tmp_path, "--json")
    (failure,) = json.loads(result.out)["failures"]
    assert (result.code, failure["kind"]) == (1, "wrong")
    (place,) = map(Path, json.loads(result.out)["reproducers"])
    assert f"--seed {failure['seed']} --count 1" in (place / "failure.txt").read_text(encoding="utf-8")
    model = onnx.load(place / "model.onnx")
    feeds = {x.name: np.load(place / f"{x.name}.npy") for x in model.graph.input}
    wanted = [np.load(place / "expected" / f"{x.name}.npy") for x in model.graph.output]
    for info, ours, theirs in zip(model.graph.output, expected(model, feeds), wanted, strict=True):
        assert not fuzz.difference(info.name, ours, theirs), "the reproducer's answer is right"


def test_a_worker_that_dies_is_a_failure_and_the_run_goes_on() -> None:
    report = fuzz.campaign(iter(range(6)), "cpu", task="tests.product.planted:dying")
    assert [(x.seed, x.kind) for x in report.failures] == [(3, "crashed")]
    assert "SIGSEGV" in report.failures[0].detail
    assert report.graphs == 6
