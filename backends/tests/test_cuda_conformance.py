"""Every CUDA recipe on the emulator: what its constraints allow computes the right thing and stays in its operands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.plugins.manager import Registry
from tilewright.testing import conformance
from tilewright.testing.cases import Case
from tilewright.testing.corpus import corpus

HALF_RECIPES = ("attention", "chain", "chain_wgmma", "mma", "thin", "wgmma", "wgmma_ring")
RECIPES = (
    *HALF_RECIPES,
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


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    """A configuration for a device with every feature, whose programs run on the emulator."""
    registry = Registry()
    registry.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conformance, "run", emulate)
        yield bind(load_config({"target": "cuda:h200"}), registry)


def check(
    recipe: str,
    settings: Settings,
    samples: int,
    seed: int,
    cases: Sequence[Case] | None = None,
    most: int | None = None,
) -> None:
    report = conformance.check_recipe(f"cuda.{recipe}", settings, samples, seed, cases, most)
    assert not report.failures, report.failures
    assert report.kernels
    assert report.choices


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_few_choices(recipe: str, settings: Settings) -> None:
    dtype = "float16" if recipe in HALF_RECIPES else "float32"
    check(recipe, settings, 6, 1, corpus(dtype), most=6)


@pytest.mark.slow(every=2)
@pytest.mark.parametrize("recipe", RECIPES)
def test_many_choices(recipe: str, settings: Settings) -> None:
    check(recipe, settings, 200, 2, most=16)
