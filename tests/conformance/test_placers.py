"""The law of placers: ordered, recorded, repeatable, and bit for bit what the default gives in any order."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from tilewright.config import Config
from tilewright.config.binding import bind
from tilewright.ir.program import Copy, Fork, GridCall, GridControl, HostStep, Launch, Part, Phase
from tilewright.ir.verify import flow, ordering
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import SlotValue
from tilewright.testing.placers import Report, check_placer, given_cases
from tilewright_grinder import control_place
from tilewright_grinder.placement import barriers

LEVELS: dict[str, dict[str, Any]] = {x: {"options": {"grinder": {"level": x}}} for x in ("graph", "grid", "block")}
CASES = given_cases(range(2))


def placers() -> list[str]:
    """Every installed value of the slot."""
    registry = bind(Config(target="cpu"), Registry()).registry
    return [record.name for record in registry.records(SlotValue).values() if record.slot == "control_place"]


def check(report: Report) -> None:
    assert not report.broken, "\n".join(f"{x.model}: {x.problem}" for x in report.broken)


@pytest.mark.parametrize("target", ["cpu:x86-64-v3", pytest.param("cuda:h200", marks=pytest.mark.slow)])
@pytest.mark.parametrize("placer", placers())
def test_random_models_keep_the_law(placer: str, target: str) -> None:
    report = check_placer(placer, target, CASES, seeds=1)
    assert sum(report.levels.values()) > 5
    check(report)


@pytest.mark.parametrize("level", ["graph", "grid", pytest.param("block", marks=pytest.mark.slow)])
def test_at_every_level_they_keep_it(level: str) -> None:
    report = check_placer("grinder", "cuda:h200", CASES, LEVELS[level], seeds=2)
    assert report.levels[level] > 1
    assert {"graph": report.graph, "grid": report.grid, "block": report.block}[level] > 1
    assert report.calls > 1 or level == "graph"
    check(report)


@pytest.mark.full
@pytest.mark.parametrize("rammer", [False, True])
@pytest.mark.parametrize("level", [*LEVELS, "auto"])
@pytest.mark.parametrize("target", ["cpu:x86-64-v3", "cuda:a100"])
def test_many_random_models_keep_it(target: str, level: str, rammer: bool) -> None:
    options: dict[str, Any] = {"grinder": {"level": level}}
    slots = {"schedule": "rammer"} if rammer else {}
    options |= {"rammer": {"gain": -1e9}} if rammer else {}
    check(check_placer("grinder", target, given_cases(range(60)), {"options": options, "slots": slots}, seeds=2))


def without_barriers(step: HostStep) -> HostStep:
    """A launch whose neighbouring phases are one."""
    if not isinstance(step, Launch):
        return step

    def joined(parts: tuple[Part, ...]) -> tuple[Part, ...]:
        made: list[Part] = []
        for part in parts:
            if isinstance(part, GridControl):
                made.append(attrs.evolve(part, body=joined(part.body), orelse=joined(part.orelse)))
            elif isinstance(part, Phase) and made and isinstance(made[-1], Phase):
                made[-1] = barriers.together(made[-1], part)
            else:
                made.append(part)
        return tuple(made)

    return attrs.evolve(step, body=joined(step.body))


def without_copies(step: HostStep) -> HostStep:
    """A launch that never copies."""
    if not isinstance(step, Launch):
        return step

    def parts(given: tuple[Part, ...]) -> tuple[Part, ...]:
        made: list[Part] = []
        for part in given:
            if isinstance(part, GridControl):
                made.append(attrs.evolve(part, body=parts(part.body), orelse=parts(part.orelse)))
                continue
            if isinstance(part, GridCall | Fork):
                made.append(part)
                continue
            lanes = (attrs.evolve(x, items=tuple(i for i in x.items if not isinstance(i, Copy))) for x in part.lanes)
            made.append(Phase(tuple(lanes)))
        return tuple(made)

    return attrs.evolve(step, body=parts(step.body))


def test_a_placer_that_does_not_say_where_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_place.GrinderPlacer, "_decided", lambda *given: None)
    report = check_placer("grinder", "cuda:h200", CASES[:1], LEVELS["grid"], seeds=0)
    assert any("names no level" in x.problem for x in report.broken)


@pytest.mark.parametrize("change", [without_barriers, without_copies])
def test_a_placer_that_leaves_something_out_is_named(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = control_place.GrinderPlacer.control

    def broken(self: Any, item: Any, request: Any) -> list[HostStep]:
        return [change(x) for x in own(self, item, request)]

    monkeypatch.setattr(control_place.GrinderPlacer, "control", broken)
    report = check_placer("grinder", "cuda:h200", given_cases((5,)), LEVELS["grid"], seeds=0)
    assert any(law in x.problem for x in report.broken for law in (ordering.LAW, flow.WRITTEN))


def test_a_kernel_may_outlive_what_it_was_made_for() -> None:
    """Rammer runs its first place with another kernel; what it reads packed elsewhere is still known."""
    config = {"options": {"rammer": {"gain": -1e9}}, "slots": {"schedule": "rammer", "control_rewrite": "grinder"}}
    check(check_placer("host", "cpu:x86-64-v3", given_cases((6,))[1:], config, seeds=1))
