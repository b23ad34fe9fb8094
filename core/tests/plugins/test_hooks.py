"""Every hook is documented, and the example in its docstring works as a plugin."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

import pytest

from tilewright.plugins import hookspecs
from tilewright.plugins.discovery import discover
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import SLOTS, STAGES, Target

DOCS = Path(__file__).parents[3] / "docs" / "hooks.md"
HOOKS = [name for name in vars(hookspecs) if name.startswith("tilewright_")]


def example(hook: str) -> str:
    text = inspect.cleandoc(getattr(hookspecs, hook).__doc__)
    return textwrap.dedent(text.partition("Example:\n")[2])


def test_every_hook_is_known_to_the_manager() -> None:
    assert {*hookspecs.RECORD_HOOKS, "tilewright_parse_target"} == set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_example(hook: str) -> None:
    sections = DOCS.read_text(encoding="utf-8").split("\n## ")
    (section,) = [s for s in sections if s.startswith(f"`{hook}`")]
    assert example(hook).strip() in section


def test_every_slot_and_stage_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for word in (*SLOTS, *SLOTS.values(), *STAGES):
        assert f"`{word}`" in text, word


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hooks_example_works(hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"acme_{hook}"
    info = tmp_path / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(f"[tilewright.plugins]\nacme = {name}\n")
    head = "from tilewright.plugins import *\nTILEWRIGHT_API = 1\n"
    (tmp_path / f"{name}.py").write_text(head + example(hook))
    monkeypatch.syspath_prepend(str(tmp_path))

    registry = Registry(discover([str(tmp_path)]), strict=True)
    registry.load()
    if hook == "tilewright_parse_target":
        assert registry.parse_target("npu") == Target("npu", "npu1")
    else:
        records = registry.records(hookspecs.RECORD_HOOKS[hook])
        assert [r for r in records.values() if registry.provider(r).name == "acme"]
