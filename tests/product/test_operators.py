"""The operator benchmark: its cells are the paper's, its references are right, its results merge, and it runs."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from benchmarks.operators import run as benchmark
from benchmarks.operators import tvm_engines
from benchmarks.operators.cells import FILE, Cell, arrays, cells, model, result_shape, sample, work
from benchmarks.operators.prepare import prepared
from benchmarks.operators.report import rank_correlation, report
from benchmarks.results import merged
from benchmarks.sessions import selected
from tilewright.config import Config
from tilewright.config.binding import bind
from tilewright.frontend import load
from tilewright.plugins.manager import Registry
from tilewright.testing.conformance import session_of

CELLS = cells()
PAPER = [c for c in CELLS if c.suite == "paper"]


def cell(kind: str, shape: str, dtype: str = "float32") -> Cell:
    return Cell("test", kind, dtype, tuple((k, v) for k, v in (x.split("=") for x in shape.split())))


SMALL = [
    cell("conv", "n=2 c=3 h=7 f=5 k=3 s=1 pad=same"),
    cell("conv", "n=1 c=4 h=10 f=3 k=3 s=2 pad=valid"),
    cell("conv", "n=1 c=2 h=8 f=3 k=3 s=2 pad=same"),  # uneven: no row before, one after
    cell("depthwise", "n=2 c=5 h=9 k=5 s=2 pad=same"),
    cell("depthwise", "n=1 c=3 h=8 k=5 s=2 pad=same"),  # uneven: one row before, two after
    cell("relu", "n=2 c=3 h=5"),
    cell("avgpool", "n=1 c=3 h=9 k=3 s=2 pad=same"),
    cell("avgpool", "n=1 c=3 h=8 k=3 s=2 pad=same"),
    cell("avgpool", "n=2 c=2 h=7 k=1 s=2 pad=valid"),
    cell("mean", "rows=7 columns=9"),
    cell("mean", "n=2 rows=3 columns=9"),
    cell("mean", "n=2 c=3 h=4"),
    cell("matmul", "m=5 n=6 k=7"),
    cell("gemm", "m=4 n=3 k=8", "float16"),
]


def test_the_papers_operators_are_all_there() -> None:
    assert Counter(c.kind for c in PAPER) == {
        "conv": 44,
        "depthwise": 23,
        "relu": 28,
        "avgpool": 13,
        "mean": 4,
        "matmul": 7,
    }
    assert len({c.name for c in CELLS}) == len(CELLS)
    assert {c.get("n") or 128 for c in PAPER if c.kind not in ("mean", "matmul")} == {128}


@pytest.mark.parametrize("one", CELLS, ids=lambda c: c.name)
def test_every_cell_is_a_model_with_the_result_it_says(one: Cell) -> None:
    made = model(one)
    onnx.checker.check_model(made)
    made.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)
    found = tuple(d.dim_value for d in inferred.graph.output[0].type.tensor_type.shape.dim)
    assert found == result_shape(one)
    assert min(work(one)) > 0


@pytest.mark.parametrize("one", SMALL, ids=lambda c: c.name)
def test_samples_agree_with_the_reference_evaluator(one: Cell) -> None:
    given = arrays(one)
    made = model(one, {name: given[name] for name in one.weights()})
    assert [x.name for x in made.graph.input] == list(one.inputs())
    (wanted,) = ReferenceEvaluator(made).run(None, {name: given[name] for name in one.inputs()})
    places, found = sample(one, given)
    assert wanted.shape == result_shape(one)
    tolerance = 2e-3 if one.dtype == "float16" else 1e-5
    np.testing.assert_allclose(found, wanted.reshape(-1)[places], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("one", SMALL, ids=lambda c: c.name)
def test_the_twin_in_pytorch_agrees(one: Cell) -> None:
    torch = pytest.importorskip("torch")
    from benchmarks.operators.twin import twin

    given = arrays(one)
    function, inputs = twin(one, given, "cpu")
    with torch.no_grad():
        found = function(*inputs).numpy()
    places, wanted = sample(one, given)
    tolerance = 2e-3 if one.dtype == "float16" else 1e-5
    np.testing.assert_allclose(found.reshape(-1)[places], wanted, rtol=tolerance, atol=tolerance)


def test_arrays_come_from_the_seed() -> None:
    one = SMALL[0]
    for name, array in arrays(one).items():
        np.testing.assert_array_equal(array, arrays(one)[name])
        assert not np.array_equal(array, arrays(one, seed=1)[name])


def test_the_sample_holds_sixteen_cells_of_every_sort() -> None:
    chosen = cells(FILE.with_name("sample.csv"))
    assert len(set(chosen)) == len(chosen) == 16
    assert set(chosen) <= set(CELLS)
    assert {c.kind for c in chosen} == {c.kind for c in CELLS}
    assert {c.suite for c in chosen} == {c.suite for c in CELLS}
    assert {(c["k"], c["s"]) for c in chosen if c.kind == "conv"} == {(3, 1), (1, 1), (7, 2)}
    assert {c["s"] for c in chosen if c.kind == "depthwise"} == {1, 2}
    assert {bool(c.get("rows")) for c in chosen if c.kind == "mean"} == {True, False}
    assert {c.dtype for c in chosen if c.kind == "gemm"} == {"float32", "float16"}
    assert {c["m"] for c in chosen if c.suite == "llm"} == {1, 16}
    assert {c.kind for c in chosen if c.suite == "batch1"} == {"conv", "depthwise"}


def test_shards_share_out_the_cells() -> None:
    shards = [selected(CELLS, ["conv", "mean"], (i, 3)) for i in (1, 2, 3)]
    assert sorted(c.name for s in shards for c in s) == sorted(c.name for c in CELLS if c.kind in ("conv", "mean"))
    assert selected(CELLS, ["batch1.mean"], (1, 1)) == [c for c in CELLS if (c.suite, c.kind) == ("batch1", "mean")]


def result(name: str, ours: float, theirs: float, predicted: float = 1.0, commit: str = "c0") -> dict[str, Any]:
    engines = {
        "tilewright-roller": {"median_us": ours, "agrees": True, "predicted_us": predicted},
        "onnxruntime": {"median_us": theirs, "agrees": True},
    }
    about = {"suite": "test", "kind": "relu", "dtype": "float32", "shape": {}, "environment": {"cpu": "x"}}
    return {"commit": commit, "cell": name, **about, "engines": engines}


def test_folders_merge_into_one_table(tmp_path: Path) -> None:
    for number, content in enumerate(
        (
            result("a", 99.0, 1.0),
            result("a", 2.0, 1.0, 1.0),
            result("b", 8.0, 1.0, 2.0),
            result("c", 4.0, 1.0, 3.0),
            result("a", 1.0, 1.0, commit="c1"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "a.json").write_text(json.dumps(content))
        os.utime(folder / "a.json", (number, number))
    results = merged([tmp_path])
    assert [(r["commit"], r["cell"]) for r in results] == [("c0", "a"), ("c0", "b"), ("c0", "c"), ("c1", "a")]
    text = report(results)
    assert "99.0" not in text  # measured again later
    assert "4.00 (3)" in text  # the geometric mean of 2, 8 and 4
    # Predictions 1, 2, 3 for 2, 8, 4: ranks 1, 2, 3 and 1, 3, 2.
    assert "rank correlation 0.500 over 3 cells" in text


def other(name: str, kind: str, ours: float, theirs: float, m: str = "1") -> dict[str, Any]:
    """A result with compilation times and tuning, 2 MB of operands and result."""
    made = result(name, ours, theirs, predicted=2 * ours)
    made |= {"suite": "llm", "kind": kind, "shape": {"m": m, "n": "8", "k": "8"}, "bytes": 2_000_000}
    tuned = {"median_us": theirs, "agrees": True, **tvm_engines.tuning_facts(30.0 * ours, 60)}
    made["engines"]["tilewright-roller"]["compile_seconds"] = ours
    made["engines"]["tvm-metaschedule"] = {**tuned, "compile_seconds": 30.0 * ours + 1}
    return made


def test_seconds_to_a_kernel_by_hand() -> None:
    text = report([other("a", "matmul", 2.0, 1.0), other("b", "matmul", 4.0, 1.0), other("c", "matmul", 5.0, 1.0)])
    # 30 s of search for each second of ours, 60 trials: half a second a trial for each, 500 s for a thousand.
    assert "| tilewright-roller | 4.00 | 3 | – | – |" in text
    assert "| tvm-metaschedule | 121 | 3 | 2000 (3) | 500 (3) |" in text
    assert "| onnxruntime | " not in text.partition("Seconds to a kernel")[2]
    assert "Seconds to a kernel" not in report([result("a", 1.0, 1.0)])


def test_share_of_the_bandwidth_by_hand() -> None:
    results = [other("a", "matmul", 2.0, 1.0), other("prompt", "matmul", 2.0, 1.0, m="2048")]
    results[0]["engines"]["onnxruntime"]["agrees"] = False
    # 2 MB in 2 µs are 1000 GB/s, in 1 µs 2000.
    decoding = report(results, bandwidth=4000.0).partition("Decoding")[2]
    assert decoding.splitlines()[0] == ": share of 4000 GB/s."
    assert decoding.splitlines()[-1] == "| a | 25% | – | 50% |"
    assert "Decoding" not in report(results)


def points(path: Path) -> dict[str, int]:
    """How many markers each named group of a plot has."""
    space = "{http://www.w3.org/2000/svg}"
    named = {g.get("id", ""): g for g in ElementTree.parse(path).iter(f"{space}g")}
    return {k: len(list(g.iter(f"{space}use"))) for k, g in named.items() if k.startswith(("predictions-", "ratios-"))}


def test_plots_show_every_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [other("a", "matmul", 2.0, 1.0), other("b", "matmul", 4.0, 1.0), other("c", "relu", 5.0, 9.0)]
    results[1]["engines"]["onnxruntime"] = {"error": "none"}
    for one in results:
        (tmp_path / f"{one['cell']}.json").write_text(json.dumps(one))
    monkeypatch.setattr(sys, "argv", ["run", "merge", str(tmp_path), "--out", str(tmp_path / "table")])
    assert benchmark.main() == 0
    assert points(tmp_path / "table" / "predictions.svg") == {"predictions-tilewright-roller": 3}
    assert points(tmp_path / "table" / "ratios.svg") == {
        "ratios-matmul-tilewright-roller-onnxruntime": 1,
        "ratios-matmul-tilewright-roller-tvm-metaschedule": 2,
        "ratios-relu-tilewright-roller-onnxruntime": 1,
        "ratios-relu-tilewright-roller-tvm-metaschedule": 1,
    }


def test_without_matplotlib_the_table_is_written_and_the_extra_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(result("a", 2.0, 1.0)))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "benchmarks.operators.plots", raising=False)
    monkeypatch.delattr("benchmarks.operators.plots", raising=False)
    monkeypatch.setattr(sys, "argv", ["run", "merge", str(tmp_path), "--out", str(tmp_path / "table")])
    with pytest.raises(SystemExit, match=r"plots need matplotlib.*tilewright\[benchmarks\]"):
        benchmark.main()
    assert (tmp_path / "table" / "table.md").exists()


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Ranks 1.5, 1.5, 3 against 1, 2, 3.
    assert rank_correlation([5, 5, 9], [1, 2, 3]) == pytest.approx(0.75**0.5)


def constructed(one: Cell, target: str) -> None:
    settings = bind(Config(target=target, slots={"propose": "roller"}), Registry())
    filters = one.weights() if one.kind in ("conv", "depthwise") else {}
    module = load(model(one, {name: np.zeros(shape, one.dtype) for name, shape in filters.items()}))
    session = session_of(settings, module)
    groups = session.connect(module.main.body).groups
    assert groups
    for group in groups:
        choices = session.propose(group)
        assert 1 <= len(choices) <= 10
        if one.kind in ("conv", "gemm"):
            assert choices[0].recipe.partition(".")[2] in ("simt", "mma", "wgmma", "wgmma_ring", "contraction")


@pytest.mark.parametrize("target", ["cpu", "cuda:h200"])
@pytest.mark.parametrize("kind", ["conv", "depthwise", "relu", "avgpool", "mean", "matmul", "gemm"])
def test_roller_constructs_an_operator_of_each_kind(kind: str, target: str) -> None:
    constructed(next(c for c in CELLS if c.kind == kind), target)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "cuda:h200", "cuda:a100"])
def test_roller_constructs_every_operator(target: str) -> None:
    for one in CELLS:
        constructed(one, target)


def tvm_measured(
    chosen: list[Cell], engine: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> list[dict[str, Any]]:
    """What the benchmark says of an engine of TVM on this machine, cell by cell."""
    rows = [f"{c.suite},{c.kind},{c.dtype},{' '.join('='.join(x) for x in c.shape)}" for c in chosen]
    (folder / "cells.csv").write_text("\n".join(["suite,kind,dtype,shape", *rows]))
    command = ["run", "run", "--cells", str(folder / "cells.csv"), "--target", "cpu", "--turns", "1", "--rounds", "3"]
    command += ["--threads", "1", "--commit", "c0", "--out", str(folder / "out"), "--engines", engine, *more]
    monkeypatch.setattr(sys, "argv", command)
    assert benchmark.main() == 0
    found = {r["cell"]: r["engines"][engine] for r in merged([folder / "out"])}
    return [found[c.name] for c in chosen]


TINY = [cell("conv", "n=1 c=4 h=8 f=8 k=3 s=2 pad=same"), cell("matmul", "m=4 n=16 k=8", "float16")]


def test_dlight_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in tvm_measured(TINY, "tvm-dlight", tmp_path, monkeypatch):
        assert one["agrees"], one
        assert one["compile_seconds"] > 0


@pytest.mark.slow
def test_metaschedule_tunes_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in tvm_measured(TINY, "tvm-metaschedule", tmp_path, monkeypatch, "--trials", "2"):
        assert one["agrees"], one
        assert one["trials_measured"] <= one["trials"] <= 2
        assert one["compile_seconds"] >= one["tuning_seconds"] > 0
        assert one["seconds_to_1000_trials"] == pytest.approx(1000 * one["tuning_seconds"] / one["trials_measured"])


@pytest.mark.parametrize("engine", tvm_engines.NAMES)
def test_what_tvm_cannot_make_is_an_error_of_the_cell(engine: str, tmp_path: Path) -> None:
    found = tvm_engines.made(cell("softmax", "n=2 c=3 h=4"), engine, tmp_path / "x.so", "cpu", 1, 1)
    assert list(found) == ["error"]
    assert "not written in TE" in found["error"]


def test_a_process_that_tvm_ends_is_an_error_of_its_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tvm_engines, "environment", os._exit)  # what the process starts with
    folders = [tmp_path / c.name for c in TINY]
    for facts in prepared(TINY, folders, tvm_engines.NAMES, "cpu", 1, 1):
        assert list(facts) == list(tvm_engines.NAMES)
        assert all("ended the process" in x["error"] for x in facts.values())


@pytest.mark.parametrize("one", SMALL, ids=lambda c: c.name)
def test_the_twin_in_tvm_agrees(one: Cell) -> None:
    import tvm

    from benchmarks.operators.tvm_twin import arguments, twin

    given = arrays(one)
    target = tvm_engines.tvm_target("cpu", 1)
    function = tvm.compile(tvm.IRModule({"main": twin(one)}), target=target)["main"]
    found = tvm.runtime.empty(result_shape(one), one.dtype)
    function(*map(tvm.runtime.tensor, arguments(one, given)), found)
    places, wanted = sample(one, given)
    tolerance = 2e-3 if one.dtype == "float16" else 1e-5
    np.testing.assert_allclose(found.numpy().reshape(-1)[places], wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_it_runs_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "cells.csv"
    rows = [f"test,{c.kind},{c.dtype},{' '.join('='.join(x) for x in c.shape)}" for c in SMALL if c.dtype == "float32"]
    table.write_text("\n".join(["suite,kind,dtype,shape", *rows]))
    common = ["run", "run", "--cells", str(table), "--target", "cpu", "--turns", "1", "--rounds", "3", "--threads", "1"]
    common += ["--out", str(tmp_path / "out"), "--engines", "tilewright-roller", "tilewright", "--commit", "c0"]
    for extra in (["--shard", "1/4"], ["--shard", "1/4", "--resume"]):
        monkeypatch.setattr(sys, "argv", [*common, *extra])
        assert benchmark.main() == 0
    said = capfd.readouterr().err
    assert said.count(": known") == len(rows[::4])
    monkeypatch.setattr(sys, "argv", ["run", "merge", str(tmp_path / "out"), "--out", str(tmp_path / "table")])
    assert benchmark.main() == 0
    results = json.loads((tmp_path / "table" / "results.json").read_text())
    assert len(results) == len(rows[::4])
    for one in results:
        for engine in one["engines"].values():
            assert engine["agrees"]
            assert engine["predicted_us"] > 0
            assert engine["compile_seconds"] > 0
