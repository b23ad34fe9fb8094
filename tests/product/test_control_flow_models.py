"""The benchmark of control flow: its formulations agree, its decisions are those that the cells say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tilewright
from benchmarks.control_flow.cells import FOLDER, Cell, cells
from benchmarks.control_flow.models import MODELS
from benchmarks.control_flow.placements import main, sweep
from benchmarks.control_flow.prepare import outputs, prepare, run_of
from benchmarks.control_flow.report import report
from benchmarks.results import merged
from tilewright.interpret.tensor import interpret
from tilewright.ir.module import Module
from tilewright.ir.ops import Call, If, Loop
from tilewright.ir.verify import verify_module

SMALL = [
    Cell(name, percent, batch, small=True)
    for name, model in sorted(MODELS.items())
    for percent in ((25, 50, 75) if model.ratios else (0,))
    for batch in ((1,) if name == "rae" else (1, 3))
]


def agree(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert np.asarray(a).shape == b.shape
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cell", SMALL, ids=lambda x: x.name)
def test_a_small_model_its_trace_and_its_twin_agree(cell: Cell) -> None:
    given = cell.given()
    if not isinstance(given.model, Module):
        onnx.checker.check_model(given.model, full_check=True)
    wanted = outputs(given)
    straight, _ = run_of(given)
    verify_module(straight)
    assert not any(isinstance(x, Loop | If | Call) for x in straight.main.body.ops)
    agree(interpret(straight, dict(given.feeds)), wanted)
    torch = pytest.importorskip("torch")
    model = MODELS[cell.model]
    inputs = [torch.from_numpy(x) for x in given.feeds.values()]
    own = [model.library(given)] if model.library is not None else []
    for module in (model.twin(given), *own, torch.jit.script(model.scripted_twin(given))):
        with torch.no_grad():
            found = module.eval()(*inputs)
        agree([x.numpy() for x in (found if isinstance(found, tuple) else (found,))], wanted)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_small_model_as_a_jax_function_agrees(name: str) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    given = Cell(name, 50 if MODELS[name].ratios else 0, 1, small=True).given()
    found = jax.jit(MODELS[name].lax(given))(*given.feeds.values())
    agree(found if isinstance(found, tuple) else (found,), outputs(given))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rewrite", ["identity", "grinder"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_small_model_compiled_for_this_cpu_agrees(name: str, rewrite: str) -> None:
    given = Cell(name, 50 if MODELS[name].ratios else 0, 1, small=True).given()
    config = {"slots": {"control_rewrite": rewrite}}
    program = tilewright.compile(given.model, target="cpu", config=config, cache=False)
    agree(program.run(None, dict(given.feeds)), outputs(given))


TAKEN = {
    "attention": "5 trips, 0 + 0 branches, 0 calls",
    "blockdrop": "0 trips, 2 + 2 branches, 0 calls",
    "early_exit": "0 trips, 1 + 1 branches, 0 calls",
    "gpt_decode": "4 trips, 0 + 0 branches, 0 calls",
    "lstm": "15 trips, 0 + 0 branches, 0 calls",
    "nasrnn": "6 trips, 0 + 0 branches, 0 calls",
    "rae": "0 trips, 6 + 5 branches, 11 calls",
    "seq2seq": "6 trips, 0 + 0 branches, 0 calls",
    "skipnet": "0 trips, 2 + 2 branches, 0 calls",
}


def test_decisions_are_those_of_the_cell() -> None:
    found = {x.model: str(run_of(x.given())[1]) for x in SMALL if x.batch == 1 and x.percent in (0, 50)}
    assert found == TAKEN


def test_the_table_of_cells_has_every_model_and_ratio() -> None:
    found = cells(FOLDER / "cells.csv")
    assert {x.model for x in found} == MODELS.keys()
    assert {x.percent for x in found if MODELS[x.model].ratios} == {25, 50, 75}
    assert {x.batch for x in found} == {1, 64}


def test_prepared_cells_have_programs_and_what_they_take(tmp_path: Path) -> None:
    cell = Cell("seq2seq", 0, 1, small=True)
    facts = prepare(cell, tmp_path, ["tilewright", "tilewright-unrolled", "onnxruntime"], {}, "cpu", 1)
    assert {x["taken"] for x in facts.values()} == {TAKEN["seq2seq"]}
    wanted = np.load(tmp_path / "reference.npz")
    for engine in facts:
        program = tilewright.load(tmp_path / f"{engine}.tw")
        agree(program.run(None, dict(np.load(tmp_path / "feeds.npz"))), [wanted[x] for x in wanted.files])


def test_the_table_says_what_is_taken_and_what_control_flow_costs(tmp_path: Path) -> None:
    times = {"tilewright": 30.0, "tilewright-unrolled": 20.0, "jax": 45.0, "torch-eager": 90.0}
    engines = {x: {"median_us": t, "agrees": True} for x, t in times.items()}
    engines["tilewright"]["taken"] = "7 trips"
    about = {"commit": "c", "environment": {}, "cell": "seq2seq.b1", "engines": engines}
    (tmp_path / "cell.json").write_text(json.dumps(about))
    text = report(merged([tmp_path]))
    assert "| seq2seq.b1 | 7 trips |" in text
    assert "| seq2seq.b1 | jax | 1.50 |" in text
    assert "| seq2seq.b1 | 1.50 |" in text.split("written out")[1]


@pytest.mark.parametrize(("model", "percent", "steps"), [("seq2seq", 0, 37), ("gpt_decode", 25, 16)])
def test_decoding_of_full_size_ends_where_the_cell_says(model: str, percent: int, steps: int) -> None:
    assert outputs(Cell(model, percent, 1).given())[1] == steps


@pytest.mark.full
@pytest.mark.parametrize("cell", [x for x in cells(FOLDER / "cells.csv") if x.batch == 1], ids=lambda x: x.name)
def test_a_model_of_full_size_agrees(cell: Cell) -> None:
    given = cell.given()
    wanted = outputs(given)
    config = {"slots": {"control_rewrite": "grinder"}}
    program = tilewright.compile(given.model, target="cpu", config=config, cache=False)
    agree(program.run(None, dict(given.feeds)), wanted, 1e-3)
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        found = MODELS[cell.model].twin(given).eval()(*[torch.from_numpy(x) for x in given.feeds.values()])
    agree([x.numpy() for x in (found if isinstance(found, tuple) else (found,))], wanted, 1e-3)


@pytest.mark.slow
def test_the_policy_of_placement_is_compared_with_all_placements(tmp_path: Path, capsys: Any) -> None:
    """By the times that it predicts itself; so what it chooses one by one is the best together."""
    out = tmp_path / "swept.json"
    given = ["--small", "--predict", "--plain", "--target", "cuda:h200", "--only", "early_exit.50.b1"]
    assert main([*given, "--out", str(out)]) == 0
    (swept,) = json.loads(out.read_text())
    levels = [tuple(levels.values()) for levels, _ in swept["tried"]]
    assert swept["exhaustive"]
    assert len(set(levels)) == len(levels) > 3
    assert ("host",) * len(levels[0]) in levels
    assert swept["policy"] == pytest.approx(min(seconds for _, seconds in swept["tried"]))
    assert "early_exit.50.b1.small" in capsys.readouterr().out


@pytest.mark.slow
def test_placements_are_measured(tmp_path: Path) -> None:
    found = sweep(Cell("seq2seq", 0, 1, small=True), "cpu", 2, measure=True, most=9)
    assert len(found.tried) == 3
    assert all(0 < seconds < 10 for _, seconds in found.tried)
    assert 0 < found.policy < 10
