"""Kernels side by side in one launch on AMD GPUs: merged, emulated thread for thread, and as code objects."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.persistent import MERGES, merged, waved
from backends.tests.test_cuda_models import agree, expected
from backends.tests.test_cuda_persistent import branches, inputs_of, planned
from backends.tests.test_rocm_build import LDS, MATRIX, check_object
from backends.tests.test_rocm_conformance import DEVICES, RECIPES, check, settings_for
from tilewright.compiler import build_program, device_of, plan_model, recipes_of
from tilewright.config.binding import Settings
from tilewright.errors import InternalError
from tilewright.ir.expr import const
from tilewright.ir.program import Launch, Phase, Program, launches
from tilewright.ir.verify import verify_program
from tilewright.testing.cases import Case, case, node
from tilewright.testing.corpus import corpus


def several(program: Program) -> list[Launch]:
    """The launches of more than one kernel."""
    return [x for x in launches(program.steps) if x.only_task is None]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["gfx90a", "gfx1100"])
def test_waves_agree_with_onnx_runtime(device: str) -> None:
    one, settings = branches(), settings_for(device)
    program = planned(one, settings)
    made = waved(program)
    verify_program(made, device_of(settings))
    assert several(made)
    assert len(made.body) < len(program.body)
    found = emulate(made, settings, inputs_of(program, one), seeds=range(2))
    agree(made.output_names, found, expected(one.model, dict(one.feeds)))


def check_members(recipe: str, device: str, samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices of a recipe as members of kernels, which all waves of their programs are."""
    members: list[int] = []

    def side_by_side(program: Program, settings: Settings, inputs: Sequence[Any]) -> list[Any]:
        made = waved(program)
        verify_program(made, device_of(settings))
        members.extend(len(phase.lanes) for x in several(made) for phase in x.body if isinstance(phase, Phase))
        return emulate(made, settings, inputs)

    monkeypatch.setattr("backends.tests.test_rocm_conformance.emulate", side_by_side)
    dtype = "float16" if recipe == "matrix" else "float32"
    check(recipe, device, samples, 3, monkeypatch, corpus(dtype), most=samples // 3)
    assert max(members, default=0) > 1 or recipe in ("topk", "topk_sort")  # which leave nothing to choose for most rows


@pytest.mark.slow(every=2)
@pytest.mark.parametrize(("recipe", "device"), [*zip(("matrix", *RECIPES), itertools.cycle(DEVICES), strict=False)])
def test_kernels_of_every_recipe_are_members(recipe: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices of different thread counts and shared memory in one kernel."""
    check_members(recipe, device, 6, monkeypatch)


def uneven(dtype: str = "float32", size: int = 64) -> Case:
    """Independent kernels of many and of few threads, some of which have barriers: a sort, a sum of rows, a product."""
    nodes = [
        node("TopK", "x k", "v i"),
        node("ReduceSum", "z a", "s", keepdims=0),
        node("MatMul", "p w", "m"),
        node("MatMul", "q w", "n"),
        node("Relu", "z", "r"),
    ]
    rng = np.random.default_rng(0)
    given = {"x": (4, 900), "z": (6, 300), "p": (size, size), "q": (size, size)}
    feeds = {key: rng.standard_normal(shape).astype(dtype) for key, shape in given.items()}
    weights = {"k": np.asarray([5]), "a": np.asarray([1]), "w": rng.standard_normal((size, size)).astype(dtype)}
    return case("uneven", nodes, feeds, weights, ("v", "i", "s", "m", "n", "r"))


@pytest.mark.parametrize("device", [pytest.param("gfx90a", marks=pytest.mark.slow), "gfx1201"])
def test_members_of_any_size_stand_together(device: str) -> None:
    """Waves beyond a member's threads end, and no barrier waits for them."""
    one, settings = uneven(), settings_for(device)
    program = plan_model(one.model, settings).program
    made = waved(program)
    (launch,) = several(made)
    needs = [program.kernels[x].choice.resources for x in program.kernels]
    assert len(made.body) == 1
    assert len({x.threads for x in needs}) > 1
    assert launch.envelope.threads == max(x.threads for x in needs)
    agree(made.output_names, emulate(made, settings, inputs_of(made, one)), expected(one.model, dict(one.feeds)))


@pytest.mark.parametrize("arch", [pytest.param(x, marks=() if x == "gfx90a" else pytest.mark.slow) for x in MATRIX])
def test_a_wave_becomes_one_kernel(arch: str, tmp_path: Path) -> None:
    """With the shared memory of the member that needs most, and the registers of the one that needs most."""
    one, settings = uneven("float16", 512), settings_for(arch)
    program = plan_model(one.model, settings).program
    apart = build_program(program, settings, tmp_path)
    alone = list(apart.data["kernels"].values())
    made = waved(program)
    verify_program(made, device_of(settings))
    output = build_program(made, settings, tmp_path)
    text = check_object(tmp_path, dict(output.data), arch)
    (kernel,) = output.data["kernels"].values()
    shared = sorted(x["shared_bytes"] for x in alone)
    assert shared[-2] > 0
    assert shared[-1] <= kernel["shared_bytes"] < sum(shared)
    assert kernel["shared_bytes"] <= several(made)[0].envelope.shared_bytes <= LDS
    assert kernel["threads"] == max(x["threads"] for x in alone)
    assert kernel["registers"] * kernel["threads"] <= device_of(settings).registers_per_unit
    assert kernel["blocks"] == sum(x.envelope.units for x in launches(program.steps))
    assert not kernel["spill_bytes"]
    assert MATRIX[arch] in text
    # Blocks and whole waves part by scalar branches: the number of the block, and what a wave's first lane has.
    assert "v_readfirstlane_b32" in text
    assert len(re.findall(r"\ts_cbranch_scc[01]", text)) >= len(alone)
    assert "flat_load" not in text


def test_units_that_do_more_than_a_task_are_refused(tmp_path: Path) -> None:
    settings = settings_for("gfx942")
    program = planned(branches(), settings)
    with pytest.raises(InternalError, match="no unit waits for another"):
        build_program(merged(program, MERGES["point to point"], 4), settings, tmp_path)
    made = waved(program)
    launch = several(made)[0]
    (phase,) = launch.body
    assert isinstance(phase, Phase)
    lane = phase.lanes[0]
    twice = attrs.evolve(lane, items=(attrs.evolve(lane.items[0], count=const(2)),))
    other = attrs.evolve(launch, body=(Phase((twice, *phase.lanes[1:])),))
    body = tuple(other if x == launch else x for x in made.body)
    with pytest.raises(InternalError, match="each unit of a launch runs one task"):
        build_program(attrs.evolve(made, body=body), settings, tmp_path)


def test_every_recipe_says_that_its_kernels_can_be_members() -> None:
    assert all(x.embeddable for x in recipes_of(settings_for("gfx1100")).values())
