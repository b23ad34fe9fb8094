"""Models in which values of inputs decide shapes: compiled when they run, bounded, counted, forbidden on request."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilewright
from tests.onnx_runtime import expected
from tilewright.artifact import Artifact
from tilewright.errors import InputError, SteeredError

W = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)


def save(path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, Any], outputs: dict[str, Any], **more: Any) -> Path:
    infos = [[helper.make_tensor_value_info(n, t, s) for n, (t, s) in group.items()] for group in (inputs, outputs)]
    weights = [numpy_helper.from_array(array, name) for name, array in more.items()]
    graph = helper.make_graph(nodes, path.stem, *infos, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def largest(folder: Path) -> Path:
    """The k largest of each row of x @ w, times a factor that decides nothing."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "factor"], ["b"]),
        helper.make_node("Reshape", ["k", "one"], ["k1"]),
        helper.make_node("TopK", ["b", "k1"], ["values", "places"]),
    ]
    inputs = {
        "x": (TensorProto.FLOAT, ["rows", 6]),
        "factor": (TensorProto.FLOAT, []),
        "k": (TensorProto.INT64, []),
    }
    outputs = {"values": (TensorProto.FLOAT, ["rows", "k"]), "places": (TensorProto.INT64, ["rows", "k"])}
    return save(folder / "largest.onnx", nodes, inputs, outputs, w=W, one=np.ones(1, np.int64))


def feeds(k: int, factor: float = 1.0, x: Any = X) -> dict[str, Any]:
    return {"x": x, "factor": np.asarray(factor, np.float32), "k": np.asarray(k, np.int64)}


def agrees(program: tilewright.Executable, model: Path, given: dict[str, Any]) -> None:
    for mine, theirs in zip(program.run(None, given), expected(onnx.load(model), given), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_program_is_made_for_each_value_and_only_for_values_that_decide_shapes(largest: Path) -> None:
    with tilewright.compile(largest, target="cpu", shapes={"rows": 3}, cache=False) as program:
        assert program.manifest.requires == ("runtime", "compiler")
        assert [str(x) for x in program.inputs] == ["float32[3, 6]", "float32[]", "int64[]"]
        assert [str(x) for x in program.outputs] == ["float32[3, k]", "int64[3, k]"]
        for k, factor in ((2, 1.0), (5, 1.0), (2, -3.0), (5, 0.5)):
            agrees(program, largest, feeds(k, factor))
        stats = program.stats
        assert (stats.runs, stats.native_runs, stats.specialised, stats.hits, stats.evictions) == (4, 4, 2, 2, 0)
        assert stats.compile_seconds > 0
        with pytest.raises(InputError, match="'x' is declared as"):
            program.run(None, feeds(2, x=np.zeros((4, 6), np.float32)))


def test_programs_of_one_model_share_their_weights_in_memory(largest: Path) -> None:
    with tilewright.compile(largest, target="cpu", shapes={"rows": 3}, cache=False) as program:
        for k in (2, 5):
            program.run(None, feeds(k))
        (_, step) = program._pipeline._steps[0]  # type: ignore[union-attr]
        natives = [inner._steps[0][1]._programs[0] for inner in step._programs.values()]  # type: ignore[attr-defined]
        weights = [{x.ctypes.data for x in native._kept if not x.flags.writeable} for native in natives]
        assert len(weights) == 2
        assert weights[0]
        assert weights[0] == weights[1]


def test_the_programs_that_are_kept_are_bounded(largest: Path, tmp_path: Path) -> None:
    with tilewright.compile(largest, target="cpu", shapes={"rows": [3, 1]}, cache=False) as program:
        program.save(tmp_path / "m.tw")
    with tilewright.load(tmp_path / "m.tw", jit=tilewright.Jit(cache=False, most=2)) as program:
        for k in (1, 2, 1, 3, 1, 2):
            agrees(program, largest, feeds(k))
        stats = program.stats
        assert (stats.specialised, stats.hits, stats.evictions) == (4, 2, 2)
        agrees(program, largest, feeds(2, x=X[:1]))
        with pytest.raises(InputError, match="It has: x=3x6; x=1x6"):
            program.run(None, feeds(2, x=X[:2]))


def test_compiling_goes_through_the_cache(largest: Path, cache: Path, tmp_path: Path) -> None:
    with tilewright.compile(largest, target="cpu", shapes={"rows": 3}) as program:
        program.save(tmp_path / "m.tw")
        agrees(program, largest, feeds(4))
    assert len([x for x in cache.iterdir() if len(x.name) == 64]) == 1
    with tilewright.load(tmp_path / "m.tw") as program:
        agrees(program, largest, feeds(4))
        assert (program.stats.specialised, program.stats.compile_seconds) == (1, 0.0)


STEERED: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], list[dict[str, Any]]]] = {
    "Reshape": (
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        {"x": (TensorProto.FLOAT, [3, 6]), "shape": (TensorProto.INT64, [2])},
        [{"x": X, "shape": np.asarray(s, np.int64)} for s in ([2, 9], [-1, 1])],
    ),
    "Slice": (
        [helper.make_node("Slice", ["x", "starts", "ends"], ["y"])],
        {"x": (TensorProto.FLOAT, [3, 6]), "starts": (TensorProto.INT64, [2]), "ends": (TensorProto.INT64, [2])},
        [
            {"x": X, "starts": np.asarray(s, np.int64), "ends": np.asarray(e, np.int64)}
            for s, e in (([0, 1], [2, 5]), ([1, -3], [99, -1]))
        ],
    ),
    "Range": (
        [helper.make_node("Range", ["first", "limit", "step"], ["y"])],
        {name: (TensorProto.FLOAT, []) for name in ("first", "limit", "step")},
        [
            {name: np.asarray(x, np.float32) for name, x in (("first", 0), ("limit", n), ("step", 0.5))}
            for n in (2, 3)
        ],
    ),
    "Resize": (
        [helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear")],
        {"x": (TensorProto.FLOAT, [1, 1, 3, 6]), "sizes": (TensorProto.INT64, [4])},
        [{"x": X.reshape(1, 1, 3, 6), "sizes": np.asarray([1, 1, h, w], np.int64)} for h, w in ((6, 6), (2, 9))],
    ),
    "Loop": (
        [
            helper.make_node(
                "Loop",
                ["trips", "", "x"],
                ["last", "y"],
                body=helper.make_graph(
                    [
                        helper.make_node("Identity", ["going"], ["on"]),
                        helper.make_node("Add", ["s", "s"], ["t"]),
                        helper.make_node("Identity", ["t"], ["row"]),
                    ],
                    "body",
                    [
                        helper.make_tensor_value_info("i", TensorProto.INT64, []),
                        helper.make_tensor_value_info("going", TensorProto.BOOL, []),
                        helper.make_tensor_value_info("s", TensorProto.FLOAT, [3, 6]),
                    ],
                    [
                        helper.make_tensor_value_info("on", TensorProto.BOOL, []),
                        helper.make_tensor_value_info("t", TensorProto.FLOAT, [3, 6]),
                        helper.make_tensor_value_info("row", TensorProto.FLOAT, [3, 6]),
                    ],
                ),
            )
        ],
        {"x": (TensorProto.FLOAT, [3, 6]), "trips": (TensorProto.INT64, [])},
        [{"x": X, "trips": np.asarray(n, np.int64)} for n in (3, 1)],
    ),
}


@pytest.mark.parametrize("name", STEERED)
def test_operators_that_take_shapes_from_inputs(name: str, folder: Path) -> None:
    nodes, inputs, cases = STEERED[name]
    rank = {"Range": 1, "Resize": 4, "Loop": 3}.get(name, 2)
    outputs = {"y": (TensorProto.FLOAT, [f"d{n}" for n in range(rank)])}
    model = save(folder / f"{name}.onnx", nodes, inputs, outputs)
    with tilewright.compile(model, target="cpu", cache=False) as program:
        for given in cases:
            agrees(program, model, given)
        assert program.stats.specialised == len(cases)


def test_a_bound_value_is_part_of_the_model_that_waits(folder: Path) -> None:
    """Of two inputs that decide shapes one is bound; weights of a narrow type go through the artifact."""
    scales = np.asarray([1, 2, 3], ml_dtypes.float8_e4m3fn)
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["a"]),
        helper.make_node("Cast", ["scales"], ["s"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a", "s"], ["b"]),
        helper.make_node("Slice", ["b", "starts", "ends"], ["y"]),
    ]
    inputs = {
        "x": (TensorProto.FLOAT, [3, 6]),
        "shape": (TensorProto.INT64, [2]),
        "starts": (TensorProto.INT64, [1]),
        "ends": (TensorProto.INT64, [1]),
    }
    infos = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
    weight = helper.make_tensor("scales", TensorProto.FLOAT8E4M3FN, [3], scales.view(np.uint8).tobytes(), raw=True)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])
    graph = helper.make_graph(nodes, "g", infos, [out], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    path = folder / "bound.onnx"
    onnx.save(model, path)
    bind = {"shape": np.asarray([6, 3], np.int64)}
    with tilewright.compile(path, target="cpu", bind=bind, cache=False) as program:
        assert [x.name for x in program.inputs] == ["x", "starts", "ends"]
        for first, last in ((0, 2), (1, 6)):
            (y,) = program.run(
                None, {"x": X, "starts": np.asarray([first], np.int64), "ends": np.asarray([last], np.int64)}
            )
            np.testing.assert_array_equal(y, (X.reshape(6, 3) * [1, 2, 3]).astype(np.float32)[first:last])


def test_without_jit_it_is_the_error_that_names_the_input(largest: Path, tmp_path: Path) -> None:
    with pytest.raises(SteeredError, match=r"TopK.*input 'k'.*--bind k=FILE.*--no-jit") as caught:
        tilewright.compile(largest, target="cpu", shapes={"rows": 3}, jit=False)
    assert caught.value.inputs == ("k",)
    bind = {"k": np.asarray(2, np.int64)}
    with tilewright.compile(largest, target="cpu", shapes={"rows": 3}, bind=bind, jit=False, cache=False) as program:
        assert [x.name for x in program.inputs] == ["x", "factor"]
        assert program.manifest.requires == ("runtime",)
    with tilewright.compile(largest, target="cpu", shapes={"rows": 3}, cache=False) as program:
        program.save(tmp_path / "m.tw")
    with pytest.raises(InputError, match=r"m\.tw holds a model that is compiled when it runs.*forbids"):
        tilewright.load(tmp_path / "m.tw", jit=False)


def test_a_value_that_cannot_be_is_an_error_and_the_program_goes_on(folder: Path) -> None:
    nodes, inputs, cases = STEERED["Reshape"]
    model = save(folder / "r.onnx", nodes, inputs, {"y": (TensorProto.FLOAT, ["a", "b"])})
    with tilewright.compile(model, target="cpu", cache=False) as program:
        agrees(program, model, cases[0])
        with pytest.raises(InputError, match="Reshape"):
            program.run(None, {"x": X, "shape": np.asarray([5, 5], np.int64)})
        agrees(program, model, cases[0])
        assert (program.stats.specialised, program.stats.hits, program.stats.runs) == (1, 1, 2)


def test_the_command_line(largest: Path, tw: Callable[..., Any], tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", np.asarray(3, np.int64))
    options = ("--shape", "rows=3")
    path = tmp_path / "m.tw"
    refused = tw("compile", largest, "-o", path, *options, "--no-jit")
    assert refused.code == 2
    assert "'k'" in refused.err
    assert "--bind k=FILE" in refused.err
    assert not path.exists()
    assert tw("compile", largest, "-o", path, *options).code == 0
    shown = tw("inspect", path).out
    assert "specialise" in shown
    assert "runtime, compiler" in shown
    ran = tw("run", path, "--input", f"k={tmp_path / 'k.npy'}", "--stats", "--json")
    data = json.loads(ran.out)
    assert data["outputs"][0]["shape"] == [3, 3]
    assert (data["stats"]["specialised"], data["stats"]["native_runs"]) == (1, 1)
    assert "specialised" in tw("run", path, "--input", f"k={tmp_path / 'k.npy'}", "--stats").out
    assert tw("run", path, "--no-jit").code == 2
    assert tw("run", path, "--input", f"k={tmp_path / 'k.npy'}", "--no-cache").code == 0
    assert tw("compare", largest, "--artifact", path, "--input", f"k={tmp_path / 'k.npy'}").code == 0
    bound = ("--bind", f"k={tmp_path / 'k.npy'}")
    assert tw("compare", largest, *options, *bound).code == 0
    assert tw("compare", largest, *options, "--input", f"k={tmp_path / 'k.npy'}").code == 0
    assert tw("compile", largest, "-o", tmp_path / "b.tw", *options, *bound, "--no-jit").code == 0
    assert tw("run", tmp_path / "b.tw", *bound).code == 2
    assert tw("compare", largest, "--artifact", tmp_path / "b.tw", *bound).code == 0
    with Artifact(tmp_path / "b.tw") as artifact:
        assert [x.name for x in artifact.manifest.inputs] == ["x", "factor"]


def test_without_a_compiler_the_artifact_loads_and_a_new_value_is_a_clear_error(largest: Path, tmp_path: Path) -> None:
    with tilewright.compile(largest, target="cpu", shapes={"rows": 3}, cache=False) as program:
        program.save(tmp_path / "m.tw")
    stub = tmp_path / "site" / "tvm"
    (stub / "lib").mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ImportError('there is no compiler here')\n")
    spec = find_spec("tvm")
    assert spec is not None
    assert spec.origin is not None
    shutil.copy(Path(spec.origin).parent / "lib" / "libtvm_runtime.so", stub / "lib")
    script = (
        "import sys, numpy, tilewright\n"
        "from tilewright.errors import InputError\n"
        "with tilewright.load(sys.argv[1]) as program:\n"
        "    print('loaded', 'onnx' in sys.modules)\n"
        "    try:\n"
        "        program.run(None, {'x': numpy.zeros((3, 6), 'f4'), 'factor': numpy.float32(1), 'k': numpy.array(2)})\n"
        "    except InputError as error:\n"
        "        print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "m.tw")],
        env={**os.environ, "PYTHONPATH": str(stub.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("loaded False")
    assert "compiled for new values of its inputs" in result.stdout
    assert "there is no compiler here" in result.stdout
