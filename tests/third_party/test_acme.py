"""A plugin that nobody here wrote specially: installed, listed, chosen by configuration, and harmless if it
is not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tilewright.artifact import Artifact

SOURCE = Path(__file__).parent / "acme"
CONFIG = """
schema = 1
[slots]
connect = "acme.chains"
[passes]
after.import = ["acme.relu_once"]
[options.acme]
longest = 2
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the plugin's wheel."""
    copy, target = tmp_path_factory.mktemp("acme"), tmp_path_factory.mktemp("site")
    for file in SOURCE.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            place = copy / file.relative_to(SOURCE)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--target", str(target), str(copy)], check=True, timeout=120
    )
    return target


@pytest.fixture
def run(site: Path) -> Run:
    """`tilewright` in a process that has the plugin on its path, or not."""

    def call(*arguments: object, installed: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from tilewright.cli import main; main()", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(site) if installed else ""},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return call


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = relu(relu(x)) * w + w, z = tanh of it."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "w"], ["c"]),
        helper.make_node("Add", ["c", "w"], ["d"]),
        helper.make_node("Tanh", ["d"], ["y"]),
    ]
    return _saved(tmp_path_factory.mktemp("models") / "chain.onnx", nodes, [])


def _saved(path: Path, nodes: list[onnx.NodeProto], domains: list[onnx.OperatorSetIdProto]) -> Path:
    w = onnx.numpy_helper.from_array(np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32), "w")
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 5])],
        [w],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), *domains], ir_version=8)
    onnx.save(made, path)
    return path


def _compiled(run: Run, model: Path, out: Path, *options: object, installed: bool = True) -> dict[str, Any]:
    result = run("compile", model, "-o", out, "--json", "--no-cache", *options, installed=installed)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_it_is_listed(run: Run) -> None:
    rows = json.loads(run("plugins", "list", "--json").stdout)["plugins"]
    assert {
        "name": "acme",
        "distribution": "acme-tilewright",
        "version": "1.2.3",
        "module": "acme_tilewright.plugin",
    } in rows
    checked = run("plugins", "check", "--json")
    assert checked.returncode == 0, checked.stdout
    names = {record["name"] for record in json.loads(checked.stdout)["records"] if record["plugin"] == "acme"}
    assert names == {"connect=acme.chains", "acme.relu_once", "ai.onnx.ml::Binarizer@1", "acme"}


def test_installed_is_not_active(run: Run, model: Path, tmp_path: Path) -> None:
    _compiled(run, model, tmp_path / "with.tw")
    _compiled(run, model, tmp_path / "without.tw", installed=False)
    with Artifact(tmp_path / "with.tw") as one, Artifact(tmp_path / "without.tw") as two:
        assert one.read("library.so") == two.read("library.so")
        assert one.read("weights.safetensors") == two.read("weights.safetensors")
        assert one.manifest == two.manifest


def test_installed_and_unused_it_changes_no_key_and_used_it_does(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen by what the cache has: `cached` says whether an entry of the same key was there."""
    config, unrelated = tmp_path / "acme.toml", tmp_path / "unrelated.toml"
    config.write_text(CONFIG)
    unrelated.write_text("schema = 1\n[plugins]\ndisabled = ['acme']\n[slots]\nconnect = 'epilogue'\n")

    def cached(*options: object, installed: bool = True) -> bool:
        result = run("compile", model, "-o", tmp_path / "x.tw", "--json", *options, installed=installed)
        assert result.returncode == 0, result.stderr
        return bool(json.loads(result.stdout)["cached"])

    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "cache"))
    assert not cached(installed=False)
    assert cached()
    assert cached("--config", unrelated)
    assert not cached("--config", config)
    assert cached("--config", config)


def test_an_edit_changes_the_key_only_where_it_is_used(
    site: Path, model: Path, tmp_path: Path
) -> None:
    config = tmp_path / "acme.toml"
    config.write_text(CONFIG)
    script = (
        "import sys; from tilewright.api import *\n"
        "s = settings_for('cpu', sys.argv[2] or None)\n"
        "print(compilation_key([identity(load_module(sys.argv[1], s))], ['m'], s))"
    )

    def keys() -> list[str]:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "copy")}
        commands = [[sys.executable, "-c", script, str(model), chosen] for chosen in ("", str(config))]
        return [subprocess.check_output(command, env=environment, text=True) for command in commands]

    shutil.copytree(site, tmp_path / "copy")
    unused, used = keys()
    with (tmp_path / "copy" / "acme_tilewright" / "chains.py").open("a") as file:
        file.write("# edited\n")
    assert keys()[0] == unused
    assert keys()[1] not in (unused, used)


def test_configuration_chooses_its_connector_and_its_pass(run: Run, model: Path, tmp_path: Path) -> None:
    config = tmp_path / "acme.toml"
    config.write_text(CONFIG)
    default = _compiled(run, model, tmp_path / "default.tw")
    chosen = _compiled(run, model, tmp_path / "chosen.tw", "--config", config)
    # Four operators are left after the pass, and two stand in each kernel.
    assert (default["kernels"], chosen["kernels"]) == (1, 2)
    with Artifact(tmp_path / "chosen.tw") as artifact:
        assert artifact.manifest.slots["connect"] == "acme.chains"
    compared = run("compare", model, "--artifact", tmp_path / "chosen.tw", "--json")
    assert compared.returncode == 0, compared.stdout + compared.stderr
    without_pass = tmp_path / "without_pass.toml"
    without_pass.write_text(CONFIG.replace('after.import = ["acme.relu_once"]', ""))
    assert _compiled(run, model, tmp_path / "x.tw", "--config", without_pass)["kernels"] == 3


def test_its_options_are_checked(run: Run, model: Path, tmp_path: Path) -> None:
    config = tmp_path / "wrong.toml"
    for text, words in (
        ("longst = 2", "Did you mean 'longest'?"),
        ("longest = 0", "longest"),
        ('longest = "2"', "longest"),
    ):
        config.write_text(CONFIG.replace("longest = 2", text))
        result = run("compile", model, "-o", tmp_path / "x.tw", "--config", config)
        assert result.returncode == 2, result.stderr
        assert "options.acme" in result.stderr
        assert words in result.stderr


def test_without_it_the_configuration_says_what_is_missing(run: Run, model: Path, tmp_path: Path) -> None:
    config = tmp_path / "acme.toml"
    config.write_text(CONFIG)
    result = run("compile", model, "-o", tmp_path / "x.tw", "--config", config, installed=False)
    assert result.returncode == 2
    assert "acme.chains" in result.stderr
    assert not (tmp_path / "x.tw").exists()


def test_it_adds_an_operator(run: Run, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Binarizer", ["x"], ["b"], domain="ai.onnx.ml", threshold=0.25),
        helper.make_node("Mul", ["b", "w"], ["y"]),
    ]
    model = _saved(tmp_path / "ml.onnx", nodes, [helper.make_opsetid("ai.onnx.ml", 1)])
    compared = run("compare", model, "--json")
    assert compared.returncode == 0, compared.stdout + compared.stderr
    missing = run("compare", model, installed=False)
    assert missing.returncode == 2
    assert "Binarizer" in missing.stderr
