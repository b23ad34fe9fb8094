"""The law of proposers: total, ranked, undominated, legal, repeatable, and right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from tilewright.config import Config
from tilewright.config.binding import bind
from tilewright.ir.choice import TileChoice
from tilewright.planning.propose import divisors
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import SlotValue
from tilewright.testing import conformance
from tilewright.testing.corpus import corpus
from tilewright.testing.proposers import Report, check_proposer

SAMPLE = [*corpus("float32")[::4], *corpus("float16")[::8]]
GOOD = divisors.make


def proposers() -> list[str]:
    """Every installed value of the slot."""
    registry = bind(Config(target="cpu"), Registry()).registry
    return [record.name for record in registry.records(SlotValue).values() if record.slot == "propose"]


def check(report: Report) -> None:
    assert not report.broken, "\n".join(f"{x.case}, {x.group}: {x.problem}" for x in report.broken)


@pytest.mark.parametrize("target", ["cpu", "cuda:h200"])
@pytest.mark.parametrize("proposer", proposers())
def test_choices_keep_the_law(proposer: str, target: str) -> None:
    report = check_proposer(proposer, target, SAMPLE, runs=0)
    assert report.choices >= report.kernels >= 40
    check(report)


@pytest.mark.parametrize("proposer", proposers())
def test_the_best_choice_computes_the_right_thing(proposer: str) -> None:
    report = check_proposer(proposer, cases=corpus("float32")[::7], runs=1)
    assert report.run == report.kernels >= 20
    check(report)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("proposer", proposers())
def test_the_best_choice_on_an_emulated_gpu(proposer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "run", emulate)
    report = check_proposer(proposer, "cuda:h200", [*corpus("float32")[2::31], *corpus("float16")[::67]], runs=1)
    assert report.run >= 8
    check(report)


@pytest.mark.slow(every=3)
@pytest.mark.parametrize("target", ["cpu", "cuda:h200", "cuda:a100", "cuda:v100"])
@pytest.mark.parametrize("proposer", proposers())
def test_choices_for_every_kernel_keep_the_law(proposer: str, target: str) -> None:
    check(check_proposer(proposer, target, runs=0))


@pytest.mark.slow(every=2)
@pytest.mark.parametrize("proposer", proposers())
def test_choices_for_every_kernel_compute_the_right_thing(proposer: str) -> None:
    check(check_proposer(proposer, runs=2))


@pytest.mark.slow(every=2)
@pytest.mark.parametrize("proposer", proposers())
def test_choices_on_an_emulated_gpu(proposer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "run", emulate)
    check(check_proposer(proposer, "cuda:h200", SAMPLE, runs=2))


def worsened(change: Callable[[tuple[TileChoice, ...]], Any]) -> Any:
    def make() -> Any:
        service = GOOD()
        return lambda group, request: change(service(group, request))

    return make


PLANTED = {
    "no choice": worsened(lambda found: ()),
    "not ranked": worsened(lambda found: found[::-1]),
    "no better in any respect": worsened(lambda found: (found[0], attrs.evolve(found[0], why="again"), *found[1:])),
    "the recipe does not match": worsened(lambda found: (attrs.evolve(found[0], recipe="cpu.other"),)),
    "the cost slot says": worsened(lambda found: (attrs.evolve(found[0], cost=1.0),)),
    "no reason": worsened(lambda found: (attrs.evolve(found[0], why=""),)),
    "is not a multiple": worsened(
        lambda found: (attrs.evolve(found[0], params={**found[0].as_dict(), found[0].params[-1][0]: -1}),)
    ),
}


@pytest.mark.parametrize("problem", PLANTED)
def test_a_broken_proposer_is_told(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divisors, "make", PLANTED[problem])
    report = check_proposer("divisors", cases=corpus("float32")[:3], runs=0)
    assert any(problem in x.problem for x in report.broken), report.broken


def test_answers_that_change_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(100))
    monkeypatch.setattr(
        divisors, "make", worsened(lambda found: (attrs.evolve(found[0], why=f"number {next(numbers)}"),))
    )
    report = check_proposer("divisors", cases=corpus("float32")[:1], runs=0)
    assert [x.problem for x in report.broken] == ["asked again, it answers something else"]
