"""`rocm.attention` on the emulator beside float64, and its machine code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.tests.test_cuda_attention import FEW, MANY, check, in_one, plain, softmax
from backends.tests.test_rocm_build import MATRIX, check_object
from backends.tests.test_rocm_matrix import DEVICES, settings_for
from tilewright.compiler import build_program
from tilewright.frontend import load
from tilewright.testing import conformance
from tilewright.testing.heads import Heads

NAME = "rocm.attention"
SPILLS = 64
"""Bytes per lane: heads of 128 columns take all registers of a lane on gfx1100, and few more."""
UNITS = ("gfx90a", "gfx1100", "gfx1201")
"""One architecture of each kind of matrix unit."""


@pytest.mark.parametrize(("one", "device"), [*zip((*FEW, FEW[0]), UNITS, strict=True)], ids=str)
def test_every_length_and_both_dtypes(one: Heads, device: str) -> None:
    feeds = one.feeds()
    check(one.model(), feeds, one.reference(feeds), 1, NAME, settings_for(device))


@pytest.mark.slow(every=2)
@pytest.mark.parametrize(("one", "device"), [(x, UNITS[i % len(UNITS)]) for i, x in enumerate(MANY)], ids=str)
def test_masks_layouts_and_random_choices(one: Heads, device: str) -> None:
    feeds = one.feeds()
    check(one.model(), feeds, one.reference(feeds), 2, NAME, settings_for(device))


@pytest.mark.full
@pytest.mark.parametrize("device", UNITS)
@pytest.mark.parametrize("one", MANY, ids=str)
def test_many_random_choices(one: Heads, device: str) -> None:
    feeds = one.feeds()
    check(one.model(), feeds, one.reference(feeds), 6, NAME, settings_for(device))


@pytest.mark.parametrize(
    "device", ["gfx1100", *(pytest.param(x, marks=pytest.mark.slow) for x in ("gfx90a", "gfx1201"))]
)
def test_keys_along_memory_computed_factors_and_an_epilogue(device: str) -> None:
    shapes = {"q": (1, 9, 24), "k": (1, 24, 72), "v": (1, 72, 24), "r": (1, 9, 24)}
    model = plain(shapes, "a = Neg v; s = MatMul q k; p = Softmax s; o = MatMul p a; y = Add o r")
    rng = np.random.default_rng(5)
    feeds = {n: rng.standard_normal(x).astype(np.float16) for n, x in shapes.items()}
    q, k, v, r = (feeds[n].astype(np.float64) for n in "qkvr")
    check(model, feeds, softmax(q @ k) @ -v + r, 1, NAME, settings_for(device))


def fits(one: Heads, arch: str, count: int, folder: Path) -> None:
    """Sampled choices keep what they announce, and run on matrix units without memory for registers."""
    settings = settings_for(arch)
    module = load(one.model())
    session, group = in_one(module, settings)
    (match,) = (m for m in session.matches(group) if m.recipe == NAME)
    choices = conformance.sample(match, count, np.random.default_rng(1))
    connect = conformance.welded(settings.service("connect"))
    program = conformance.copies(module, [(group, x) for x in choices], settings, connect)
    output = build_program(program, settings, folder)
    text = check_object(folder, dict(output.data), arch)
    assert text.count(MATRIX[arch]) >= 4 * len(choices)
    for choice, found in zip(choices, output.data["kernels"].values(), strict=True):
        told = dict(choice.params), found["registers"], choice.resources.registers
        assert found["spill_bytes"] <= SPILLS, told
        assert found["shared_bytes"] <= choice.resources.shared_bytes, told


@pytest.mark.parametrize("arch", ["gfx942", "gfx1100"])
def test_it_is_matrix_instructions_without_spills(arch: str, tmp_path: Path) -> None:
    fits(Heads(128, 128, 64, 64, heads=2, mask="added"), arch, 1, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("arch", DEVICES)
@pytest.mark.parametrize("one", MANY, ids=str)
def test_sampled_choices_fit(one: Heads, arch: str, tmp_path: Path) -> None:
    fits(one, arch, 8, tmp_path)
