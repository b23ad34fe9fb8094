"""Persistent launches on the emulator: the default scheduler's kernels, merged, beside ONNX Runtime and NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.persistent import MERGES, merged
from backends.tests.test_cuda_conformance import HALF_RECIPES, RECIPES, check
from tilewright.compiler import recipes_of
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.ir.program import Program
from tilewright.ir.verify import verify_program
from tilewright.plugins.manager import Registry
from tilewright.testing import conformance
from tilewright.testing.corpus import corpus

ALONE = ("chain_wgmma", "wgmma_ring")


@pytest.fixture(scope="module")
def settings() -> Settings:
    registry = Registry()
    registry.load()
    return bind(load_config({"target": "cuda:h200"}), registry)


def together(program: Program, settings: Settings, inputs: Sequence[Any], merge: str = "point to point") -> list[Any]:
    """The outputs of a program of which all launches are one, on three units."""
    made = merged(program, MERGES[merge], 3)
    verify_program(made)
    return emulate(made, settings, inputs)


@pytest.mark.parametrize("recipe", [x for x in RECIPES if x not in ALONE])
def test_kernels_of_every_recipe_are_members(recipe: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices of different thread counts and shared memory in one persistent kernel."""
    monkeypatch.setattr(conformance, "run", together)
    dtype = "float16" if recipe in HALF_RECIPES else "float32"
    check(recipe, settings, 6, 3, corpus(dtype), most=6)
