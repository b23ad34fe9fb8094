"""Blocks whose kernels Welder has welded, on the emulator of a GPU, beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import tilewright
from backends.tests.cuda_on_cpu.emulator import emulate
from tests.onnx_runtime import expected
from tilewright.compare import compare_outputs
from tilewright.compiler import plan_model
from tilewright.config import Config
from tilewright.config.binding import Settings, bind
from tilewright.ir.program import Program
from tilewright.plugins.manager import Registry
from tilewright.testing.models import BUILDERS
from tilewright.testing.precision import narrowed, narrowed_feeds

QUICK = ("gpt",)
NAMES = [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow) for x in sorted(BUILDERS)]


def settings(connect: str = "welder") -> Settings:
    """For a device with every feature."""
    return bind(Config(target="cuda:h200", slots={"connect": connect}), Registry())


def run(program: Program, feeds: dict[str, Any]) -> list[Any]:
    return emulate(program, settings(), [feeds[x] for x in program.input_names])


def fewer_launches(model: onnx.ModelProto, program: Program) -> None:
    """Fewer than by default, and at least one of several stages."""
    assert len(program.body) < len(plan_model(model, settings("epilogue")).program.body)
    assert any(level == "shared" for x in program.kernels.values() for _, level in x.group.levels)


@pytest.mark.parametrize("name", NAMES)
def test_a_block_agrees_with_onnx_runtime(name: str) -> None:
    case = BUILDERS[name]()
    program = plan_model(case.model, settings()).program
    fewer_launches(case.model, program)
    found = run(program, dict(case.feeds))
    for agreement in compare_outputs(program.output_names, found, expected(case.model, case.feeds)):
        assert agreement.ok, agreement


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_block_in_float16_is_near_the_float32_one(name: str) -> None:
    case = BUILDERS[name](opset=22)
    exact = expected(case.model, case.feeds)
    model = narrowed(case.model, "float16")
    program = plan_model(model, settings()).program
    fewer_launches(model, program)
    found = run(program, dict(narrowed_feeds(case.feeds, "float16")))
    for mine, wanted in zip(found, exact, strict=True):
        difference = np.linalg.norm(mine.astype(np.float64) - wanted) / np.linalg.norm(wanted)
        assert 1e-6 < difference < 1e-2


def test_joined_products_run_from_an_artifact_on_the_host() -> None:
    case = BUILDERS["bert"]()
    config = {"target": "cpu", "slots": {"connect": "welder"}}
    assert any("part of" in str(x.chosen) for x in plan_model(case.model, settings("welder")).decisions)
    found = tilewright.compile(case.model, config=config).run(None, dict(case.feeds))
    for mine, wanted in zip(found, expected(case.model, case.feeds), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-5)
