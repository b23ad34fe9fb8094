"""ONNX's whole own suite, compiled for this CPU, beside what passed when `docs/scoreboard.json` was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tilewright.testing import scoreboard
from tilewright.testing.scoreboard import Score
from tilewright.testing.suite import suite

BEFORE = Path(__file__).parents[2] / "docs" / "scoreboard.json"


def test_the_stored_scoreboard_is_of_this_suite() -> None:
    known = json.loads(BEFORE.read_text(encoding="utf-8"))
    assert {(g, n) for g, names in known.items() for n in names} == {(x.group, x.case.name) for x in suite()}


def test_a_test_that_stops_passing_is_noticed() -> None:
    kinds = ("native", "declined", "constant", "fallback")
    scores = [Score("node", str(n), "Add", kind) for n, kind in enumerate(kinds)]
    before = scoreboard.as_json(scores)
    assert scoreboard.lost(before, scores) == []
    now = ("wrong", "native", "fallback", "specialised")
    later = [Score("node", str(n), "Add", kind) for n, kind in enumerate(now)]
    assert scoreboard.lost(before, later) == [later[0], later[2]]


@pytest.mark.slow
def test_the_whole_suite(pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]) -> None:
    scores = scoreboard.play("cpu")
    assert [f"{x.name}: {x.detail}" for x in scores if x.kind in ("wrong", "crashed")] == []
    assert [f"{x.name}: {x.detail}" for x in scoreboard.lost(BEFORE.read_text(encoding="utf-8"), scores)] == []
    compiled = sum(x.kind in scoreboard.COMPILED for x in scores if x.group == "node")
    passed = sum(x.kind in scoreboard.PASSED for x in scores if x.group == "node")
    assert compiled >= 1773
    assert passed >= 1875
    writer = pytestconfig.get_terminal_writer()
    with capsys.disabled():
        writer.line()
        writer.line(f"ONNX's own suite: {len(scores)} tests; node tests compiled: {compiled}, passed: {passed}")
