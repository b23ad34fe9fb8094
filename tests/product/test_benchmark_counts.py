"""The benchmark of models: its lists, what it counts without a device, and that it runs, resumes and merges."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from benchmarks.models import count as counting
from benchmarks.models import run as benchmark
from benchmarks.models.cells import FOLDER, LISTS, Cell, cells
from benchmarks.models.elements import Reach, distinct
from benchmarks.models.graphs import MODELS, case, graph, in_dtype
from benchmarks.models.prepare import configurations
from benchmarks.models.report import report
from benchmarks.models.traffic import copies, traffic
from benchmarks.models.worker import recurrent
from benchmarks.results import CUDNN_LSTM
from tests.product.models import save_model
from tilewright.api import settings_for
from tilewright.compiler import plan_model
from tilewright.interpret.evaluate import evaluate_all
from tilewright.ir.expr import Expr, Load, Var, all_of, const
from tilewright.ir.program import Program

EPILOGUE = {"slots": {"connect": "epilogue"}}


def test_the_lists_hold_what_is_compared() -> None:
    paper, anchors, light, rammer = (cells(FOLDER / f"{x}.csv") for x in LISTS)
    assert len(set(paper)) == len(paper) == 62
    assert len({c.model for c in paper}) == 17
    assert {c.model for c in paper} - {c.model for c in paper if c.batch == 64} == {"bsrn", "nerf_64", "restormer"}
    assert len({c.model for c in anchors}) == 10
    assert len(set(anchors)) == len(anchors) == 20
    assert {c.dtype for c in (*paper, *anchors)} == {"float32", "float16"}
    assert len(light) == 9
    assert len(set(rammer)) == len(rammer) == 11 * 3 * 2
    assert {(c.batch, c.dtype) for c in rammer} == set(itertools.product((1, 4, 16), ("float32", "float16")))


def test_the_frozen_table_has_every_cell_of_the_paper() -> None:
    rows = counting._read(FOLDER / "epilogue.csv")
    assert [r["cell"] for r in rows] == sorted(c.name for c in cells(FOLDER / "paper.csv"))
    for row in rows:
        read, written, crossing, launches = (int(row[x]) for x in ("read", "written", "crossing", "launches"))
        assert read + written == crossing
        assert launches > 0
    crossings = {row["cell"]: int(row["crossing"]) for row in rows}
    for name, crossing in crossings.items():
        assert crossings.get(name.replace(".b1.", ".b64."), crossing) in (crossing, 64 * crossing)


ROW, COLUMN, STEP = (Var(x, "int64") for x in "ijk")


def reach(index: list[Expr], shape: list[int], guard: Expr | None = None, **axes: int) -> Reach:
    return Reach(tuple(index), guard, tuple(shape), tuple(axes.items()))


def between(x: Expr, size: int) -> Expr | None:
    return all_of(const(0) <= x, x < size)


WINDOW = ROW * 2 - 1 + STEP
REACHES = {
    "window": [reach([WINDOW, COLUMN], [8, 3], between(WINDOW, 8), i=4, j=3, k=3)],
    "stride": [reach([ROW * 3], [20], i=5)],
    "two strides": [reach([ROW * 2, COLUMN], [10, 4], i=5, j=4), reach([ROW * 3, COLUMN], [10, 4], i=3, j=4)],
    "corners": [reach([ROW, COLUMN], [6, 6], i=2, j=3), reach([ROW + 3, COLUMN + 1], [6, 6], i=3, j=4)],
    "split": [reach([(ROW * 5 + COLUMN) // 4, (ROW * 5 + COLUMN) % 4], [6, 4], i=4, j=5)],
    "joined and part": [reach([ROW * 4 + COLUMN], [24], i=6, j=3)],
    "part of a concatenation": [reach([ROW * 4 + COLUMN, STEP], [16, 2], ROW * 4 + COLUMN < 6, i=4, j=4, k=2)],
    "triangle": [reach([ROW, COLUMN], [7, 7], COLUMN <= ROW, i=7, j=7)],
    "condition on another axis": [reach([ROW], [9], all_of(ROW <= STEP, const(3) <= STEP), i=9, k=5)],
    "twice the same": [reach([ROW], [5], i=5), reach([const(4) - ROW], [5], i=5)],
    "one": [reach([const(2), ROW], [3, 4], i=1)],
}


@pytest.mark.parametrize("name", REACHES)
def test_elements_are_counted_as_by_marking_each(name: str) -> None:
    marked: set[tuple[int, ...]] = set()
    for one in REACHES[name]:
        for point in itertools.product(*(range(n) for _, n in one.axes)):
            env = {axis: np.int64(x) for (axis, _), x in zip(one.axes, point, strict=True)}
            exprs = [*one.index, *([] if one.guard is None else [one.guard])]
            values = [int(x) for x in evaluate_all(exprs, env)]
            if one.guard is None or values[-1]:
                marked.add(tuple(values[: len(one.index)]))
    assert distinct(REACHES[name]) == len(marked)


def test_rows_that_data_choose_count_once_for_each_point() -> None:
    rows = Load(0, "int64")
    assert distinct([reach([rows, COLUMN], [1000, 8], i=3, j=8)]) == 24
    assert distinct([reach([rows, COLUMN], [2, 8], i=3, j=8)]) == 16


def planned(model: Any, config: Any = EPILOGUE) -> Program:
    return plan_model(model, settings_for("cuda:h200", config)).program


def test_bytes_of_launches_by_hand(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    weights = {"w": np.arange(15, dtype=np.float32).reshape(5, 3, 1, 1)}
    path = save_model(tmp_path / "net.onnx", nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 5, 2, 2]}, weights)
    program = planned(path)
    conv, pool = traffic(program)
    # Every second row and column of 3 channels is read, 5 channels of 4 × 4 are written, and read again.
    assert (conv.read, conv.written, conv.weights) == (4 * 3 * 16, 4 * 5 * 16, 4 * 15)
    assert (pool.read, pool.written, pool.weights) == (4 * 5 * 16, 4 * 5 * 4, 0)
    assert pool.crossing == 4 * 5 * 20
    assert copies(program) == 0


@pytest.mark.parametrize("name", ["alexnet", "nerf_64", "gpt_block"])
def test_activations_grow_with_the_batch(name: str) -> None:
    one, two = (traffic(planned(graph(name, n, small=True))) for n in (1, 2))
    assert [2 * x.read for x in one] == [x.read for x in two]
    assert [2 * x.written for x in one] == [x.written for x in two]


def test_separate_kernels_move_more() -> None:
    model = graph("nafnet", small=True)
    joined, apart = (traffic(planned(model, {"slots": {"connect": x}})) for x in ("epilogue", "singletons"))
    assert len(joined) < len(apart)
    assert sum(x.crossing for x in joined) < sum(x.crossing for x in apart)


def test_layers_as_one_kernel_move_the_first_rows_the_weights_and_the_last_results() -> None:
    program = planned(graph("nerf_64", dtype="float16", small=True), {"slots": {"connect": "welder"}})
    (one,) = traffic(program)
    assert (one.read, one.written) == (2 * 100 * 64, 2 * 100 * 3)
    weights = 6 * (64 * 64 + 64) + 3 * 64 + 3
    # Tensor cores would have the last weights in whole tiles of 16 or 32 columns.
    assert 2 * weights <= one.weights <= 2 * (weights + 29 * 64)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["run", *map(str, arguments)])
    return benchmark.main()


def test_counting_writes_tables_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out, kernels = tmp_path / "total.csv", tmp_path / "kernels.csv"
    given = ["count", "--small", "--only", "nerf_64.b1", "--out", out, "--kernels", kernels, "--resume"]
    given += ["--config", FOLDER / "epilogue.toml"]
    for _ in range(2):
        assert command(monkeypatch, *given) == 0
    assert capfd.readouterr().err.count(" launches, ") == 2  # the second time all are there
    rows = counting._read(out)
    assert [r["cell"] for r in rows] == ["nerf_64.b1.float16.small", "nerf_64.b1.float32.small"]
    launches = [r for r in counting._read(kernels) if r["cell"] == rows[1]["cell"]]
    assert len(launches) == int(rows[1]["launches"]) == 7
    assert sum(int(r["crossing"]) for r in launches) == int(rows[1]["crossing"]) == 4 * 100 * (7 * 64 + 6 * 64 + 3)
    assert command(monkeypatch, "compare", out, out) == 0
    assert "launches −0%, bytes −0%" in capfd.readouterr().out


def test_tables_compare_by_hand(tmp_path: Path) -> None:
    for name, launches, crossing in (("before", 100, 1000), ("after", 25, 400)):
        row = {"cell": "a", "launches": launches, "crossing": crossing}
        counting._write(tmp_path / f"{name}.csv", counting.COLUMNS, [row])
    assert "launches −75%, bytes −60%" in counting.compare(tmp_path / "before.csv", tmp_path / "after.csv")


def test_configurations_have_names() -> None:
    found = configurations(["a/welder.toml", "both=b.toml"])
    assert found == {"tilewright-welder": Path("a/welder.toml"), "tilewright-both": Path("b.toml")}


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("model,batch,dtype\nnone,1,float32\n")
    with pytest.raises(ValueError, match=r"names none; there are alexnet"):
        cells(tmp_path / "x.csv")


def test_light_models_are_cells_too() -> None:
    given = case("light:squeezenet")
    assert next(iter(given.feeds.values())).shape == (1, 3, 224, 224)
    assert Cell("light:squeezenet", 1, "float32").name == "light_squeezenet.b1.float32"
    onnx.checker.check_model(given.model)
    with pytest.raises(ValueError, match="batch 1 only"):
        case("light:squeezenet", batch=2)


def result(cell: str, **medians: float) -> dict[str, Any]:
    engines = {k.replace("_", "-"): {"median_us": v, "agrees": True, "compile_seconds": v} for k, v in medians.items()}
    return {"commit": "c0", "environment": {}, "cell": cell, "batch": 1, "dtype": "float32", "engines": engines}


def test_the_fastest_peer_by_hand() -> None:
    text = report(
        [
            result("a", tilewright=2.0, torch_eager=4.0, torch_compile=8.0),
            result("b", tilewright=3.0, torch_eager=9.0, torch_compile=3.0),
        ]
    )
    # Twice as fast and equally fast.
    assert "| 1, float32 | 1.41 (2) |" in text
    assert "| tilewright | 2.5 | 3.0 | 2 |" in text


def test_an_engine_that_is_reported_is_no_peer() -> None:
    one = result("a", tilewright=2.0, torch_eager=4.0)
    one["engines"][CUDNN_LSTM] = {"median_us": 1.0, "agrees": True}
    text = report([one])
    assert "| 1, float32 | 2.00 (1) |" in text
    assert f"{CUDNN_LSTM} is reported, not counted" in text
    assert f"| cell | tilewright | torch-eager | {CUDNN_LSTM} |\n|---|---|---|---|\n| a | 2.0 | 4.0 | 1.0 |" in text


def test_the_lstm_of_pytorch_agrees(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import onnxruntime

    model, feeds = in_dtype(case("lstm", batch=2, small=True), "float32")
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "cell.json").write_text(json.dumps({"model": "lstm"}))
    run, inputs = recurrent(tmp_path, feeds, "cpu")
    with torch.no_grad():
        (found,) = run(*inputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, feeds)
    assert np.linalg.norm(found.numpy() - wanted) <= 1e-5 * np.linalg.norm(wanted)
    (tmp_path / "cell.json").write_text(json.dumps({"model": "seq2seq"}))
    with pytest.raises(NotImplementedError, match="not seq2seq"):
        recurrent(tmp_path, feeds, "cpu")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_conversion_to_pytorch_agrees(name: str) -> None:
    torch = pytest.importorskip("torch")
    import onnxruntime

    from benchmarks.onnx_torch import OnnxModule

    model, feeds = in_dtype(case(name, batch=2, small=True), "float32")
    module = OnnxModule(model, feeds, "cpu").eval()
    with torch.no_grad():
        found = module(*(torch.from_numpy(feeds[x]) for x in module.inputs))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for a, b in zip(found, session.run(None, feeds), strict=True):
        assert np.linalg.norm(a.numpy() - b) <= 1e-5 * np.linalg.norm(b)


@pytest.mark.slow
def test_it_runs_resumes_and_merges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [
        "run",
        "--small",
        "--only",
        "nerf_256",
        "--target",
        "cpu",
        "--turns",
        "1",
        "--rounds",
        "3",
        "--threads",
        "1",
    ]
    given += ["--config", FOLDER / "epilogue.toml", "--commit", "c0", "--out", tmp_path / "out"]
    for extra in ([], ["--resume"]):
        assert command(monkeypatch, *given, *extra) == 0
    assert capfd.readouterr().err.count(": known") == 2
    assert command(monkeypatch, "merge", tmp_path / "out", "--out", tmp_path / "table") == 0
    results = json.loads((tmp_path / "table" / "results.json").read_text())
    assert [r["cell"] for r in results] == ["nerf_256.b1.float16.small", "nerf_256.b1.float32.small"]
    for one in results:
        assert list(one["engines"]) == ["tilewright", "tilewright-epilogue", "onnxruntime"]
        assert all(x["agrees"] for x in one["engines"].values())
        assert one["engines"]["tilewright"]["kernels"] > 0
