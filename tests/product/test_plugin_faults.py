"""A fault in a plugin's code is the plugin's: the error names it, wherever the compiler was calling it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from tests.product.models import save_model
from tilewright.api import compilation_key
from tilewright.assemble import build_artifact
from tilewright.compiler import load_module
from tilewright.config import load_config
from tilewright.config.binding import bind
from tilewright.errors import InternalError
from tilewright.ir.keys import identity
from tilewright.plugins.discovery import discover
from tilewright.plugins.errors import PluginError
from tilewright.plugins.manager import Registry

PLUGIN = """
from tilewright.plugins import *
from tilewright_backends.recipes.cpu.nest import RECIPE
import attrs

TILEWRIGHT_API = 1

def boom(*args, **kwargs):
    raise KeyError("boom")

def service():
    return boom

RULES = {
    "boom": boom,
    "number": lambda b, node: 3,
    "nothing": lambda b, node: [None],
    "other": lambda b, node: b.compute("float32", (7,), lambda i: node[0][i, 0]),
    "misuse": lambda b, node: b.compute("float32", (3, 4), lambda i, j: node[0][i]),
}

@hookimpl
def tilewright_slots():
    for slot in ("control_rewrite", "connect", "propose", "cost", "schedule", "control_place", "planner"):
        yield SlotValue(slot, "faulty.service", service)
        yield SlotValue(slot, "faulty.factory", boom)
        yield SlotValue(slot, "faulty.uncallable", lambda: 3)

@hookimpl
def tilewright_passes():
    for name, run in (("faulty.raises", boom), ("faulty.forgets", lambda ir, session: None)):
        yield Pass(name, run, ("before.import", "after.import", "after.connect", "before.build"))

@hookimpl
def tilewright_legalizations():
    if WHAT in RULES:
        yield Legalization("Binarizer", RULES[WHAT], domain="ai.onnx.ml")

@hookimpl
def tilewright_recipes():
    if WHAT in ("match", "emit", "pack"):
        def match(subject, device):
            if WHAT == "match":
                boom()
            seen = attrs.evolve(RECIPE.match(subject, device), recipe="faulty.recipe")
            return attrs.evolve(seen, packings=boom) if WHAT == "pack" else seen
        recipe = attrs.evolve(RECIPE, name="faulty.recipe", priority=1000, match=match)
        yield RecipeEntry("faulty.recipe", "cpu", lambda: recipe, boom)

@hookimpl
def tilewright_backends():
    yield Backend("faulty", boom, boom, boom)

@hookimpl
def tilewright_device_models():
    yield DeviceEntry("one", "faulty", boom)

@hookimpl
def tilewright_parse_target(text):
    if text == "raise":
        boom()
    if text == "wrong":
        return "cpu"
    return Target("faulty", "one") if text == "faulty" else None
"""

Site = Callable[..., Path]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Installs the plugin in a folder on the path."""

    def install(what: str = "") -> Path:
        folder = tmp_path / "site"
        info = folder / "faulty_goods-2.5.dist-info"
        info.mkdir(parents=True)
        (info / "entry_points.txt").write_text("[tilewright.plugins]\nfaulty = faulty_goods\n")
        (folder / "faulty_goods.py").write_text(PLUGIN.replace("WHAT", repr(what)))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, "faulty_goods", raising=False)
        return folder

    return install


def compiled(model: Path, folder: Path, **config: Any) -> None:
    registry = Registry(discover([str(folder / "site"), *sys.path]), strict=True)
    settings = bind(load_config(config), registry)
    module = load_module(str(model), settings)
    compilation_key([identity(module)], ["m"], settings)
    build_artifact([module], "m", settings, folder / "m.tw")


def blamed(model: Path, folder: Path, *words: str, **config: Any) -> None:
    with pytest.raises(PluginError) as caught:
        compiled(model, folder, **config)
    for word in ("plugin faulty (faulty-goods 2.5)", *words):
        assert word in str(caught.value)


SLOTS = ("control_rewrite", "connect", "propose", "cost", "schedule", "control_place", "planner")


@pytest.mark.parametrize("slot", SLOTS)
def test_a_service(site: Site, dense: Path, tmp_path: Path, slot: str) -> None:
    site()
    blamed(dense, tmp_path, "Slot value 'faulty.service'", "KeyError: 'boom'", slots={slot: "faulty.service"})


@pytest.mark.parametrize(("name", "cause"), [("factory", "KeyError: 'boom'"), ("uncallable", "not 3")])
def test_a_factory(site: Site, dense: Path, tmp_path: Path, name: str, cause: str) -> None:
    site()
    blamed(dense, tmp_path, f"Slot value 'faulty.{name}'", cause, slots={"connect": f"faulty.{name}"})


@pytest.mark.parametrize("point", ["before.import", "after.import", "after.connect", "before.build"])
def test_a_pass(site: Site, dense: Path, tmp_path: Path, point: str) -> None:
    site()
    side, _, stage = point.partition(".")
    blamed(dense, tmp_path, "Pass 'faulty.raises'", "KeyError: 'boom'", passes={side: {stage: ["faulty.raises"]}})
    if point != "before.import":
        blamed(dense, tmp_path, "Pass 'faulty.forgets'", "returned None", passes={side: {stage: ["faulty.forgets"]}})


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("boom", "KeyError: 'boom'"),
        ("number", "not 3"),
        ("nothing", "no output 0"),
        ("other", "[7]"),
        ("misuse", "with 1 indices"),
    ],
)
def test_a_rule(site: Site, tmp_path: Path, what: str, cause: str) -> None:
    site(what)
    node = helper.make_node("Binarizer", ["x"], ["y"], name="culprit", domain="ai.onnx.ml")
    opsets = [helper.make_opsetid("ai.onnx.ml", 1)]
    model = save_model(tmp_path / "m.onnx", [node], {"x": (3, 4)}, {"y": (3, 4)}, opsets=opsets)
    blamed(model, tmp_path, "Legalization 'ai.onnx.ml::Binarizer@1'", "culprit", cause)


@pytest.mark.parametrize("what", ["match", "emit", "pack"])
def test_a_recipe(site: Site, dense: Path, tmp_path: Path, what: str) -> None:
    site(what)
    blamed(dense, tmp_path, "Recipe 'faulty.recipe'", "KeyError: 'boom'")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("raise", ["Hook tilewright_parse_target", "KeyError: 'boom'"]),
        ("wrong", ["Hook tilewright_parse_target", "a Target or None"]),
        ("faulty", ["Device model 'one'", "KeyError: 'boom'"]),
    ],
)
def test_a_target(site: Site, dense: Path, tmp_path: Path, target: str, words: list[str]) -> None:
    site()
    blamed(dense, tmp_path, *words, target=target)


def test_a_fault_of_built_in_code_stays_internal(
    site: Site, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site()

    def broken(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("tilewright.planning.schedule.one_kernel.launch_of", broken)
    with pytest.raises(KeyError, match="ours"):
        compiled(dense, tmp_path)
    monkeypatch.setattr("tilewright.frontend.legalize.matmul.Builder.reduce", broken)
    with pytest.raises(InternalError, match=r"The rule for .*MatMul.* failed: KeyError: 'ours'"):
        compiled(dense, tmp_path)


def test_the_command_line_shows_where_with_debug(site: Site, dense: Path, tmp_path: Path) -> None:
    folder = site()
    (tmp_path / "c.toml").write_text("schema = 1\n[slots]\nconnect = 'faulty.service'\n")

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        arguments = ["compile", dense, "-o", tmp_path / "m.tw", "--config", tmp_path / "c.toml", *options]
        command = [sys.executable, "-c", "from tilewright.cli import main; main()", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    plain, debug = run(), run("--debug")
    assert (plain.returncode, debug.returncode) == (2, 2)
    assert "plugin faulty (faulty-goods 2.5)" in plain.stderr
    assert "Traceback" not in plain.stderr
    assert 'faulty_goods.py", line' in debug.stderr
