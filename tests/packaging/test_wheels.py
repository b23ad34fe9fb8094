"""Wheels of the core and the backends alone, in an environment of their own.

The third-party dependencies are those of the environment that runs the tests, shown to the new one by links: no network
is needed. So this proves that our wheels are complete and need none of our source trees, not that pip resolves their
requirements, which `tests/architecture` compares with the pinned versions instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
OFFLINE = ["--quiet", "--no-index", "--no-deps"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    sources = [str(ROOT / name) for name in ("core", "backends", "plugins/roller")]
    subprocess.run([*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", str(folder), *sources], check=True)
    return folder


@pytest.fixture(scope="module")
def environment(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheels of the core and the backends."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    dependencies = folder / "dependencies"
    dependencies.mkdir()
    for found in Path(sysconfig.get_path("purelib")).iterdir():
        if "tilewright" not in found.name and found.suffix != ".pth":
            (dependencies / found.name).symlink_to(found)
    install(folder, wheels, "core", "backends")
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    return folder


def install(environment: Path, wheels: Path, *names: str) -> None:
    found = [str(path) for name in names for path in wheels.glob(f"tilewright_{name}-*.whl")]
    assert len(found) == len(names)
    python = str(environment / "bin" / "python")
    subprocess.run([*PIP, "--python", python, "install", *OFFLINE, *found], check=True)


def call(environment: Path, program: str, *arguments: object) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [str(environment / "bin" / program), *map(str, arguments)]
    result = subprocess.run(command, env=kept, cwd=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def listed(environment: Path) -> set[str]:
    found: dict[str, Any] = json.loads(call(environment, "tilewright", "plugins", "list", "--json"))
    return {plugin["name"] for plugin in found["plugins"]}


def test_core_and_backends_alone_compile_and_run_a_model(environment: Path, tmp_path: Path) -> None:
    script = "import tilewright, tilewright_backends as backends; print(tilewright.__file__, backends.__file__)"
    where = call(environment, "python", "-c", script)
    assert str(ROOT) not in where
    assert all(place.startswith(str(environment)) for place in where.split())
    w = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])],
        [numpy_helper.from_array(w, "w")],
    )
    model = tmp_path / "dense.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    x = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    call(environment, "tilewright", "compile", model, "-o", tmp_path / "dense.tw")
    feed = f"x={tmp_path / 'x.npy'}"
    call(environment, "tilewright", "run", tmp_path / "dense.tw", "--input", feed, "--save-outputs", tmp_path / "out")
    (found,) = (tmp_path / "out").glob("*.npy")
    np.testing.assert_allclose(np.load(found), np.maximum(x @ w, 0), rtol=1e-5, atol=1e-6)


def test_a_techniques_wheel_shows_it(environment: Path, wheels: Path) -> None:
    assert listed(environment) == {"backends"}
    install(environment, wheels, "roller")
    assert listed(environment) == {"backends", "roller"}
