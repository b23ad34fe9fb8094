"""Passes run at every point that configuration may name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tilewright.assemble import build_artifact
from tilewright.compiler import load_module
from tilewright.config.binding import Settings, bind
from tilewright.config.schema import Config
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import STAGES


def test_every_point_is_passed(monkeypatch: pytest.MonkeyPatch, dense: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def look(point: str, ir: Any, context: Any) -> Any:
        seen.append(point)
        return ir

    points = [f"{when}.{stage}" for stage in STAGES for when in ("before", "after")]
    passes: dict[str, list[Callable[..., Any]]] = {point: [partial(look, point)] for point in points}
    monkeypatch.setattr(Settings, "runnable_passes", lambda self: passes)
    settings = bind(Config(target="cpu"), Registry())
    build_artifact([load_module(str(dense), settings)], "dense", settings, tmp_path / "a.tw")
    assert set(seen) == set(points)
    assert seen.index("before.connect") < seen.index("after.connect") < seen.index("before.schedule") < len(seen)
    assert seen[-1] == "after.build"
