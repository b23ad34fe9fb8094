"""The import rule, and that `import tilewright` stays light."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TECHNIQUES = ("roller", "welder", "grinder", "rammer")
SOURCES = ("core/src", "backends/src", *(f"plugins/{name}/src" for name in TECHNIQUES))
LINTER = Path(sys.executable).with_name("lint-imports")
# What no part may name in an import made at run time, which the linter cannot see.
FORBIDDEN_BY_NAME = {
    "core/src": ("tilewright_", "tvm"),
    **{f"plugins/{name}/src": ("tilewright_", "tvm") for name in TECHNIQUES},
    "backends/src": tuple(f"tilewright_{name}" for name in TECHNIQUES),
}
HEAVY = {"tvm", "tvm_ffi", "onnx", "onnxruntime", "torch"}
IMPORT_MARGIN_S = 0.15


def lint_imports(folder: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the linter with the repository's contracts; `path` comes first on the module path."""
    command = [str(LINTER), "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_import_rule_holds() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


def test_the_import_rule_covers_every_distribution() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    packages = {path.parent.name for source in SOURCES for path in (ROOT / source).glob("*/__init__.py")}
    assert set(contracts["root_packages"]) == packages
    assert {path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*/src"), *ROOT.glob("plugins/*/src")]} == set(
        SOURCES
    )


@pytest.mark.parametrize(
    ("package", "statement"),
    [
        ("core/src/tilewright", "import tvm"),
        ("core/src/tilewright", "def late():\n    from tvm_ffi import Tensor"),
        ("core/src/tilewright", "import tilewright_backends"),
        ("core/src/tilewright", "import tilewright_roller.plugin"),
        ("plugins/roller/src/tilewright_roller", "import tvm.tirx"),
        ("plugins/welder/src/tilewright_welder", "import tilewright_roller"),
        ("plugins/grinder/src/tilewright_grinder", "from tilewright_backends import tvm_env"),
        ("backends/src/tilewright_backends", "import tilewright_rammer"),
        ("core/src/tilewright/ir", "from tilewright.planning import requests"),
        ("core/src/tilewright/views", "import tilewright.workers"),
        ("core/src/tilewright/frontend", "from tilewright.planning.session import Session"),
        ("core/src/tilewright/plugins", "import tilewright.ir.ops"),
        ("core/src/tilewright/planning", "from tilewright.config import Config"),
        ("core/src/tilewright/artifact", "import tilewright.frontend"),
        ("core/src/tilewright/testing", "import tilewright.cli"),
    ],
)
def test_the_import_rule_refuses(package: str, statement: str, tmp_path: Path) -> None:
    for source in SOURCES:
        shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / package / "planted.py").write_text(statement + "\n", encoding="utf-8")
    result = lint_imports(tmp_path, os.pathsep.join(str(tmp_path / source) for source in SOURCES))
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{Path(package).name}.planted" in result.stdout


def imports_by_name(tree: ast.AST) -> list[str]:
    """The constant first arguments of import_module(...) and __import__(...)."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        argument = node.args[0]
        if function in ("import_module", "__import__") and isinstance(argument, ast.Constant):
            found.append(str(argument.value))
    return found


def test_imports_by_name_are_found() -> None:
    code = 'import importlib\nimportlib.import_module("tvm.tirx")\n__import__("x")\nimport_module(name)'
    assert imports_by_name(ast.parse(code)) == ["tvm.tirx", "x"]


@pytest.mark.parametrize("part", FORBIDDEN_BY_NAME)
def test_no_forbidden_import_by_name(part: str) -> None:
    files = sorted((ROOT / part).rglob("*.py"))
    assert files
    own = {path.parent.name for path in (ROOT / part).glob("*/__init__.py")}
    offences = [
        (str(path.relative_to(ROOT)), name)
        for path in files
        for name in imports_by_name(ast.parse(path.read_text(encoding="utf-8")))
        if name.startswith(FORBIDDEN_BY_NAME[part]) and name.split(".")[0] not in own
    ]
    assert not offences


def fresh_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def import_seconds(module: str) -> float:
    """The best of five fresh processes' time for one import statement, without the interpreter's start."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return min(float(fresh_process(code)) for _ in range(5))


def test_import_loads_nothing_heavy() -> None:
    loaded = set(fresh_process("import sys, tilewright; print(*sys.modules)").split())
    assert "tilewright" in loaded
    assert not {name.split(".")[0] for name in loaded} & HEAVY


def test_import_is_quick() -> None:
    assert import_seconds("tilewright") <= import_seconds("numpy") + IMPORT_MARGIN_S
