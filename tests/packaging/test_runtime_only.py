"""An artifact runs where only TVM's runtime library is present: from Python, and from C++."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilewright
from tilewright.api import compile_artifact, settings_for

SOURCE = Path(__file__).resolve().parents[2] / "examples" / "cpp" / "run_artifact.cc"


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution with weights, a pool and a matrix product."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "v"], ["y"]),
    ]
    weights = {"w": (16, 3, 3, 3), "b": (16,), "v": (16, 10)}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in weights.items()],
    )
    path = tmp_path_factory.mktemp("models") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def artifact(model: Path) -> Path:
    path = model.with_suffix(".tw")
    with tilewright.compile(model, target="cpu") as program:
        program.save(path)
    return path


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(model: Path, x: np.ndarray) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built, beside the only two libraries of TVM that it will find."""
    folder = tmp_path_factory.mktemp("cpp")
    for package_name, library in (("tvm_ffi", "libtvm_ffi.so"), ("tvm", "libtvm_runtime.so")):
        shutil.copy(package(package_name) / "lib" / library, folder)
    includes = [f"-I{package(name) / 'include'}" for name in ("tvm_ffi", "tvm")]
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Werror", str(SOURCE), *includes, f"-L{folder}"]
    command += ["-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi", "-ldl", "-o", str(folder / "run_artifact")]
    subprocess.run(command, check=True)
    return folder / "run_artifact"


def unpacked(artifact: Path, folder: Path) -> Path:
    with zipfile.ZipFile(artifact) as archive:
        archive.extractall(folder)
    return folder


def called(program: Path, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {"LD_LIBRARY_PATH": str(program.parent), "TVM_NUM_THREADS": "2", "TVM_BIND_THREADS": "0"}
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_from_cpp(program: Path, artifact: Path, x: np.ndarray, expected: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(x.tobytes())
    result = called(program, tmp_path, unpacked(artifact, tmp_path / "model"), tmp_path / "x.bin")
    assert result.returncode == 0, result.stderr
    assert "output0.bin: 40 bytes of float32" in result.stdout
    found = np.fromfile(tmp_path / "output0.bin", np.float32).reshape(1, 10)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_from_cpp_a_wrong_input_is_named(program: Path, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"short")
    result = called(program, tmp_path, unpacked(artifact, tmp_path / "model"), tmp_path / "x.bin")
    assert result.returncode == 2
    assert "needs 1728 bytes, has 5" in result.stderr


def test_from_cpp_a_cuda_artifact_fails_with_words_where_there_is_no_runtime_for_it(
    program: Path, model: Path, tmp_path: Path
) -> None:
    """Building the example builds its CUDA half; running that needs a GPU."""
    artifact, _ = compile_artifact(model, settings_for("cuda:sm_80", None))
    with artifact:
        artifact.copy_to(tmp_path / "cuda.tw")
    result = called(program, tmp_path, unpacked(tmp_path / "cuda.tw", tmp_path / "model"))
    assert result.returncode == 2
    assert "libtvm_runtime_cuda.so" in result.stderr


def test_from_python(artifact: Path, x: np.ndarray, expected: np.ndarray, tmp_path: Path) -> None:
    """A package `tvm` that holds the runtime library alone and raises when it is imported."""
    stub = tmp_path / "site" / "tvm"
    (stub / "lib").mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ImportError('there is no compiler here')\n")
    shutil.copy(package("tvm") / "lib" / "libtvm_runtime.so", stub / "lib")
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys, numpy, tilewright\n"
        "artifact, x, y = sys.argv[1:]\n"
        "with tilewright.load(artifact, threads=2) as program:\n"
        "    numpy.save(y, program.run(None, {'x': numpy.load(x)})[0])\n"
        "maps = open('/proc/self/maps').read()\n"
        "assert 'libtvm_runtime.so' in maps and 'libtvm_compiler' not in maps\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'tvm', 'onnx', 'torch', 'onnxruntime'}))\n"
    )
    arguments = [str(artifact), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": str(stub.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-4, atol=1e-4)
