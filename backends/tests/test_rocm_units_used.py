"""Which kernels of models run their products of 16-bit floats on matrix units: all that have sides for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from backends.tests.test_rocm_build import MATRIX, check_object
from backends.tests.test_rocm_matrix import DEVICES
from tilewright.compiler import build_program, plan_module
from tilewright.config.binding import bind
from tilewright.config.loading import load_config
from tilewright.frontend import load
from tilewright.ir.expr import Apply, Expr
from tilewright.ir.program import Kernel, Program
from tilewright.plugins.manager import Registry
from tilewright.testing.models import BUILDERS
from tilewright.testing.precision import narrowed
from tilewright.views.staged import StagedSpec
from tilewright.views.subject import subject_of
from tilewright_backends.lower.flat import flatten
from tilewright_backends.recipes.contraction import Contraction, contraction_of
from tilewright_backends.recipes.gpu.common import points

TECHNIQUES = {"connect": "welder", "propose": "roller", "cost": "roller", "schedule": "rammer"}
LEAST = 8
"""Rows and columns below which half of an instruction would be idle: such products read a matrix once, and no recipe
takes them to the matrix units."""


def half(value: Expr) -> bool:
    return isinstance(value, Apply) and value.op == "cast" and value.args[0].dtype in ("float16", "bfloat16")


def products(kernel: Kernel, constants: frozenset[str]) -> Iterator[Contraction]:
    """The contractions of 16-bit factors among the stages of a kernel."""
    subject = subject_of(kernel.group, constants)
    for stage in subject.stages if isinstance(subject, StagedSpec) else (subject,):
        spec = flatten(stage)  # type: ignore[arg-type]
        found = contraction_of(spec) if spec.combiner is not None else None
        if found is not None and half(found.rows.value) and half(found.columns.value):
            yield found


def without(program: Program, text: str, arch: str) -> dict[str, str]:
    """Kernels with such contractions and no matrix instruction: why, by name; "" where there is no reason."""
    parts = re.split(r"^[0-9a-f]+ <tw_(\w+)>:$", text, flags=re.MULTILINE)
    code: Mapping[str, str] = dict(zip(parts[1::2], parts[2::2], strict=True))
    found = {}
    for name, kernel in program.kernels.items():
        mine = list(products(kernel, frozenset(program.constants)))
        if mine and MATRIX[arch] not in code[name]:
            sides = [min(points(x.m), points(x.n)) for x in mine]
            few = max(sides) < LEAST
            found[name] = f"{kernel.choice.recipe}: {max(sides)} rows or columns" if few else ""
    return found


@pytest.mark.parametrize(
    "arch", [pytest.param(x, marks=pytest.mark.slow if x == "gfx1100" else pytest.mark.full) for x in DEVICES]
)
def test_bert_multiplies_on_matrix_units(arch: str, tmp_path: Path) -> None:
    """Two layers, half as wide as the base size, with all techniques. The pooler has a single row."""
    registry = Registry()
    registry.load()
    slots = {**TECHNIQUES, "control_rewrite": "grinder"}
    settings = bind(load_config({"target": f"rocm:{arch}", "slots": slots}), registry)
    model = narrowed(BUILDERS["bert"](hidden=384, heads=6, sequence=128).model, "float16")
    program = plan_module(load(model), settings).program
    output = build_program(program, settings, tmp_path)
    text = check_object(tmp_path, dict(output.data), arch)
    lacking = without(program, text, arch)
    assert all(lacking.values()), lacking
    assert len(lacking) == 1, lacking
    # Query, key and value at once, scores, weighted values, three dense layers, the pooler: alone or in one kernel.
    constants = frozenset(program.constants)
    assert sum(len(list(products(x, constants))) for x in program.kernels.values()) >= 7
    assert not any(k["spill_bytes"] for k in output.data["kernels"].values())
