"""The law of schedulers: complete, ordered, resident, recorded, repeatable, right in any order that is left open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest

from tilewright.config import Config
from tilewright.config.binding import bind
from tilewright.ir.expr import const
from tilewright.ir.program import Launch, Phase, Task
from tilewright.planning.requests import Schedule
from tilewright.planning.schedule import one_kernel
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import SlotValue
from tilewright.testing.models import BUILDERS
from tilewright.testing.schedulers import Report, check_scheduler

ALWAYS: dict[str, Any] = {"options": {"rammer": {"gain": -1e9, "policy": "list"}}}
"""Merges whatever can be merged."""
WAVES: dict[str, Any] = {"options": {"rammer": {"gain": -1e9, "policy": "waves"}}}
LAUNCHES: dict[str, Any] = {"options": {"rammer": {"gain": -1e9, "policy": "launches"}}}


def schedulers() -> list[str]:
    """Every installed value of the slot."""
    registry = bind(Config(target="cpu"), Registry()).registry
    return [record.name for record in registry.records(SlotValue).values() if record.slot == "schedule"]


def check(report: Report) -> None:
    assert not report.broken, "\n".join(f"{x.model}: {x.problem}" for x in report.broken)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("target", ["cpu:x86-64-v3", "cuda:h200"])
@pytest.mark.parametrize("scheduler", schedulers())
def test_blocks_keep_the_law(scheduler: str, target: str) -> None:
    report = check_scheduler(scheduler, target, [BUILDERS[x]() for x in ("bert", "unet")], seeds=1)
    assert report.launches > 0
    check(report)


@pytest.mark.parametrize(
    ("target", "config"),
    [("cpu:x86-64-v3", ALWAYS), ("cpu:x86-64-v3", WAVES), ("cuda:h200", ALWAYS)],
    ids=["cpu list", "cpu waves", "cuda list"],
)
def test_merged_whatever_it_costs_they_keep_it(target: str, config: dict[str, Any]) -> None:
    report = check_scheduler("rammer", target, [BUILDERS["gpt"]()], config, seeds=3)
    assert report.together
    check(report)


@pytest.mark.parametrize(
    ("target", "config"),
    [
        pytest.param("cpu:x86-64-v3", LAUNCHES, id="cpu", marks=pytest.mark.slow),
        pytest.param("cuda:h200", LAUNCHES, id="cuda", marks=pytest.mark.slow),
        pytest.param("rocm:gfx1100", ALWAYS, id="rocm"),
    ],
)
def test_waves_as_launches_keep_it(target: str, config: dict[str, Any]) -> None:
    """No unit waits for another, as AMD's GPUs ask for."""
    alone = check_scheduler("one-kernel-per-group", target, [BUILDERS["bert"]()], seeds=0)
    report = check_scheduler("rammer", target, [BUILDERS["bert"]()], config, seeds=2)
    assert not report.together
    assert report.launches < alone.launches
    check(report)


@pytest.mark.slow
@pytest.mark.parametrize("config", [ALWAYS, WAVES], ids=["list", "waves"])
@pytest.mark.parametrize("target", ["cpu:x86-64-v3", "cuda:a100"])
def test_all_blocks_merged_keep_the_law(target: str, config: dict[str, Any]) -> None:
    check(check_scheduler("rammer", target, config=config))


@pytest.mark.full
@pytest.mark.parametrize("config", [{}, ALWAYS, WAVES, LAUNCHES], ids=["default", "list", "waves", "launches"])
@pytest.mark.parametrize("target", ["cpu:x86-64-v3", "cuda:h200", "cuda:a100", "rocm:mi300x"])
@pytest.mark.parametrize("scheduler", schedulers())
def test_all_blocks_keep_the_law(scheduler: str, target: str, config: dict[str, Any]) -> None:
    check(check_scheduler(scheduler, target, config=config))


def worsened(change: Callable[[Sequence[Launch]], tuple[Launch, ...]]) -> Callable[[], Schedule]:
    def make() -> Schedule:
        good = GOOD()
        return lambda planned, request: change(good(planned, request))

    return make


GOOD = one_kernel.make


def one_phase(launches: Sequence[Launch]) -> tuple[Launch, ...]:
    """The first two launches side by side in one phase."""
    first, second, *rest = launches
    lanes = tuple(x for launch in (first, second) for x in launch.body[0].lanes)  # type: ignore[union-attr]
    lanes = (lanes[0], attrs.evolve(lanes[1], first=first.envelope.units))
    items = tuple(attrs.evolve(x, first=x.first - first.envelope.units) for x in lanes[1].items if isinstance(x, Task))
    units = first.envelope.units + second.envelope.units
    a, b = first.envelope, second.envelope
    envelope = attrs.evolve(
        a,
        units=units,
        threads=max(a.threads, b.threads),
        registers=max(a.registers, b.registers),
        shared_bytes=max(a.shared_bytes, b.shared_bytes),
    )
    return (Launch(first.name, envelope, (Phase((lanes[0], attrs.evolve(lanes[1], items=items))),)), *rest)


def half(launches: Sequence[Launch]) -> tuple[Launch, ...]:
    """The first launch with one unit."""
    lane = launches[0].body[0].lanes[0]  # type: ignore[union-attr]
    body = (Phase((attrs.evolve(lane, units=const(1)),)),)
    return (attrs.evolve(launches[0], body=body), *launches[1:])


PLANTED = {
    "runs task": worsened(half),
    "written before": worsened(lambda found: tuple(found[::-1])),
    "read": worsened(one_phase),
}


@pytest.mark.parametrize("problem", PLANTED)
def test_a_broken_scheduler_is_told(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_kernel, "make", PLANTED[problem])
    report = check_scheduler("one-kernel-per-group", models=[BUILDERS["gpt"]()], seeds=0)
    assert any(problem in x.problem for x in report.broken), report.broken


def test_answers_that_change_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(100))
    changing = worsened(
        lambda found: tuple(attrs.evolve(x, name=f"{x.name} {next(numbers)}") for x in found)
    )
    monkeypatch.setattr(one_kernel, "make", changing)
    report = check_scheduler("one-kernel-per-group", models=[BUILDERS["gpt"]()], seeds=0)
    assert "asked again, it answers something else" in {x.problem for x in report.broken}
