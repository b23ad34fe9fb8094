"""What ROCm shows without a device: whole models become code objects within the limits of four architectures, with no
technique and with all; and every subset of the techniques computes the right thing when it is emulated.

Each cell is compiled once. All of them: `make test-full ARGS="-n auto tests/end_to_end/test_rocm_shows.py
backends/tests/test_rocm_*.py"`; the slow tier has a sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.test_rocm_build import MATRIX, check_object
from tests.product.test_power_set import MODELS, TECHNIQUES, power_set
from tilewright.compare import compare_outputs
from tilewright.compiler import build_program, device_of, plan_module
from tilewright.config import load_config
from tilewright.config.binding import Settings, bind
from tilewright.frontend import load
from tilewright.ir.program import launches
from tilewright.plugins.manager import Registry
from tilewright.runtime.native import BuildOutput
from tilewright.study.design import Arm
from tilewright.testing.control import control_case
from tilewright.testing.models import BUILDERS
from tilewright.testing.precision import narrowed
from tilewright.testing.seeded import light_model, light_names

SPILLS = 64
"""Bytes per lane that a kernel may spill, of light models and, with all techniques, of BERT. None was found to; sampled
choices of attention with heads of 128 columns spill up to 36 on gfx1100."""
SLOW = {
    ("squeezenet", "gfx90a", "none"), ("shufflenet", "gfx942", "none"), ("zfnet512", "gfx1100", "none"),
    ("bvlc_alexnet", "gfx1201", "none"), ("bert", "gfx90a", "none"), ("bert", "gfx1201", "none"),
    ("squeezenet", "gfx1100", "all"), ("bert", "gfx942", "all"), ("control", "gfx1201", "all"),
}  # fmt: skip
"""What the slow tier builds of whole models; the full one builds all."""


def subsets() -> list[Arm]:
    """All 16 of the techniques, on the default connector where Welder is off."""
    return [x for x in power_set() if x.levels["fusion"] == "on"]


def every() -> Mapping[str, Any]:
    """The configuration with all techniques."""
    (arm,) = [x for x in subsets() if all(x.levels[t] == "on" for t in TECHNIQUES)]
    return arm.mapping


def settings_for(arch: str, mapping: Mapping[str, Any]) -> Settings:
    return bind(load_config({**mapping, "target": f"rocm:{arch}"}), Registry())


def model_of(name: str) -> onnx.ModelProto:
    """BERT is two layers, half as wide as the base size, in 16 bits."""
    if name == "bert":
        return narrowed(BUILDERS["bert"](hidden=384, heads=6, sequence=128).model, "float16")
    return control_case(0).model if name == "control" else light_model(name)


def within_limits(output: BuildOutput, settings: Settings, folder: Path, spills: int) -> str:
    """The machine code of a program, whose kernels have what the device has; whatever LLVM reads agrees."""
    device = device_of(settings)
    text = check_object(folder, dict(output.data), device.arch)
    for name, facts in output.data["kernels"].items():
        assert facts["registers"] * facts["threads"] <= device.registers_per_unit, name
        assert facts["shared_bytes"] <= device.shared_per_block, name
        assert facts["spill_bytes"] <= spills, name
    return text


def cells() -> list[Any]:
    found = itertools.product([*light_names(), "bert", "control"], MATRIX, ("none", "all"))
    return [pytest.param(*x, marks=pytest.mark.slow if x in SLOW else pytest.mark.full) for x in found]


@pytest.mark.parametrize(("name", "arch", "techniques"), cells())
def test_models_become_code_objects(name: str, arch: str, techniques: str, tmp_path: Path) -> None:
    settings = settings_for(arch, every() if techniques == "all" else {})
    program = plan_module(load(model_of(name)), settings).program
    output = build_program(program, settings, tmp_path)
    spilling = name in light_names() or (name, techniques) == ("bert", "all")
    text = within_limits(output, settings, tmp_path, SPILLS if spilling else 0)
    assert name != "bert" or MATRIX[arch] in text
    assert not any(x.envelope.cooperative for x in launches(program.steps))


def subset_cells() -> list[Any]:
    made = []
    for name, arch, arm in itertools.product(MODELS, ("gfx942", "gfx1100"), subsets()):
        on = [x for x in TECHNIQUES if arm.levels[x] == "on"]
        marks = _tier(name, arch, on)
        made.append(pytest.param(name, arch, arm, marks=marks, id=f"{name}-{arch}-{'+'.join(on) or 'none'}"))
    return made


def _tier(name: str, arch: str, techniques: list[str]) -> Any:
    if len(techniques) < len(TECHNIQUES):
        return pytest.mark.full
    return () if (name, arch) == ("recurrent", "gfx942") else pytest.mark.slow


@pytest.mark.parametrize(("name", "arch", "arm"), subset_cells())
def test_every_subset_of_the_techniques_agrees(name: str, arch: str, arm: Arm, tmp_path: Path) -> None:
    """As a code object within the limits, and emulated thread for thread beside ONNX's reference evaluator."""
    make, shape = MODELS[name]
    model = make(tmp_path / f"{name}.onnx")
    feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    settings = settings_for(arch, arm.mapping)
    program = plan_module(load(onnx.load(model)), settings).program
    within_limits(build_program(program, settings, tmp_path), settings, tmp_path, 0)
    found = emulate(program, settings, [feeds[x] for x in program.input_names])
    expected: Any = ReferenceEvaluator(str(model)).run(None, feeds)
    for agreement in compare_outputs(["y"], found, expected):
        assert agreement.ok, agreement
