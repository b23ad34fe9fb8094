"""What -v and -vv say: stages, then kernels, workers, tools and the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Tw = Callable[..., Any]


def test_each_level_says_more(tw: Tw, dense: Path, cache: Path, tmp_path: Path) -> None:
    def said(*options: str) -> str:
        result = tw("compile", dense, "-o", tmp_path / "x.tw", *options)
        assert result.code == 0
        return str(result.err)

    assert said("--no-cache") == ""
    once, twice = said("--no-cache", "-v"), said("--no-cache", "-vv")
    for stage in ("import", "legalize", "plan", "verify", "build"):
        assert f"info: {stage}: " in once
    assert "debug:" not in once
    for words in ("debug: propose of a: ", "debug: connect of ", "cpu.contraction", "debug: running "):
        assert words in twice
    assert {line.partition(": ")[0] for line in twice.splitlines()} == {"info", "debug"}
    assert "is made" in said("-vv")
    assert "is used" in said("-vv")
    assert "is used" not in said("-v")


def test_workers_are_mentioned(tw: Tw, dense: Path) -> None:
    said = tw("bench", dense, "--rounds", 1, "--seconds", 0.01, "-vv").err
    # Workers of earlier tests in this process may end meanwhile: those that waited for more to do.
    told = [x for x in said.splitlines() if x.startswith("debug: worker ") and "tilewright.bench" in x]
    started, ended = (sum(x.endswith(what) for x in told) for what in ("is started", "is ended"))
    assert started == ended >= 2


@pytest.mark.parametrize("options", [(), ("-q",), ("-v",)])
def test_less_is_said_otherwise(tw: Tw, dense: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert "debug:" not in tw("compile", dense, "-o", tmp_path / "x.tw", "--no-cache", *options).err
