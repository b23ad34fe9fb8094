"""Every ROCm recipe on the emulator, waves of 64 and of 32 lanes: what constraints allow computes the right thing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.plugins.manager import Registry
from tilewright.testing import conformance
from tilewright.testing.cases import Case
from tilewright.testing.corpus import corpus

RECIPES = (
    "attention_simt",
    "map",
    "reduce",
    "rows",
    "scan",
    "scatter",
    "simt",
    "stages",
    "topk",
    "topk_sort",
    "window",
)
DEVICES = ("gfx90a", "gfx1100", "gfx1201")
"""Waves of 64, waves of 32; the three have different matrix units."""


def settings_for(device: str) -> Settings:
    registry = Registry()
    registry.load()
    return bind(load_config({"target": f"rocm:{device}"}), registry)


def check(
    recipe: str,
    device: str,
    samples: int,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    cases: Sequence[Case] | None = None,
    most: int | None = None,
) -> None:
    monkeypatch.setattr(conformance, "run", emulate)
    report = conformance.check_recipe(f"rocm.{recipe}", settings_for(device), samples, seed, cases, most)
    assert not report.failures, report.failures
    assert report.kernels
    assert report.choices


@pytest.mark.sampled(2)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_few_choices(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(recipe, "gfx90a", 3, 1, monkeypatch, corpus("float32"), most=2)


@pytest.mark.slow(every=2)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("recipe", "samples", "most"), [("matrix", 6, 8), ("attention", 3, 3), ("stages", 3, 3)])
def test_products_on_matrix_units(
    recipe: str, samples: int, most: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(recipe, device, samples, 1, monkeypatch, corpus("float16"), most=most)


@pytest.mark.slow(every=2)
@pytest.mark.parametrize(("recipe", "device"), [*zip(RECIPES, itertools.cycle(DEVICES), strict=False)])
def test_more_choices(recipe: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(recipe, device, 12, 2, monkeypatch, corpus("float32"), most=6)


@pytest.mark.full
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("recipe", ["attention", "matrix", *RECIPES])
def test_many_choices(recipe: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(recipe, device, 200, 2, monkeypatch, most=60)
