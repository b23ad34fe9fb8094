"""The law of recipes: every choice that meets the constraints compiles and computes the right thing."""

from __future__ import annotations

import pytest

from tilewright.config.binding import Settings, bind
from tilewright.config.schema import Config
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import RecipeEntry
from tilewright.testing.conformance import Report, check_recipe
from tilewright.testing.corpus import corpus


def settings() -> Settings:
    """The CPU at hand with every installed plugin."""
    return bind(Config(target="cpu"), Registry())


def cpu_recipes() -> list[str]:
    """Every recipe that is registered for the CPU."""
    records = settings().registry.records(RecipeEntry).values()
    return [entry.name for entry in records if entry.backend == "cpu"]


@pytest.mark.parametrize("recipe", cpu_recipes())
def test_a_few_choices_compute_the_right_thing(recipe: str) -> None:
    check(check_recipe(recipe, settings(), samples=70, seed=70, cases=corpus("float32"), most=35))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", cpu_recipes())
def test_sampled_choices_compute_the_right_thing(recipe: str) -> None:
    check(check_recipe(recipe, settings(), samples=200, seed=200))


def check(report: Report) -> None:
    assert report.kernels >= 10
    assert report.choices >= report.kernels
    assert not report.failures, "\n".join(f"{f.case}: {f.choice.as_dict()}: {f.problem}" for f in report.failures)
