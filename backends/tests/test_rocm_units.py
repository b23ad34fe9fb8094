"""Lane maps of AMD's matrix instructions beside a second source: AMD's matrix instruction calculator.

`PLACES` has what github.com/ROCm/amd_matrix_instruction_calculator (commit 2ef9189) prints for each instruction that
kernels use: which lanes hold an element, and which element of the lane it is.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import ml_dtypes
import numpy as np
import pytest

from tilewright.interpret.evaluate import evaluate
from tilewright.ir.expr import Expr, const
from tilewright_backends.recipes.rocm.units import SIDE, Unit, unit_of

HERE = Path(__file__).parent / "cuda_on_cpu"
Places = Callable[[int, int], tuple[list[int], int]]


@attrs.frozen
class Maps:
    """Lanes and number of the element of A[i][k] (B[k][j] is the same with j instead of i), and of D[i][j]."""

    arch: str
    wave: int
    operand: Places
    result: Places


PLACES = {
    # A[i][k]: lane 16 floor(k / 4) + i. D[i][j]: lane 16 floor(i / 4) + j, register i % 4.
    "mfma": Maps(
        "gfx942",
        64,
        lambda i, k: ([16 * (k // 4) + i], k % 4),
        lambda i, j: ([16 * (i // 4) + j], i % 4),
    ),
    # A[i][k]: lanes i and i + 16. D[i][j]: lane 16 i % 32 + j, register floor(i / 2).
    "wmma": Maps(
        "gfx1100",
        32,
        lambda i, k: ([i, i + 16], k),
        lambda i, j: ([16 * i % 32 + j], i // 2),
    ),
    # A[i][k]: lane 16 (floor(k / 4) % 2) + i; k = 8 floor(register / 2) + 4 floor(lane / 16) + 2 (register % 2) + half.
    # D[i][j]: lane 16 floor(i / 8) + j, register i % 8.
    "wmma12": Maps(
        "gfx1201",
        32,
        lambda i, k: ([16 * (k // 4 % 2) + i], 2 * (2 * (k // 8) + k % 4 // 2) + k % 2),
        lambda i, j: ([16 * (i // 8) + j], i % 8),
    ),
}


def number(expr: Expr) -> int:
    return int(evaluate(expr, {}))


def known(name: str) -> tuple[Unit, Maps]:
    maps = PLACES[name]
    unit = unit_of(maps.arch)
    assert unit is not None
    assert unit.name == name
    return unit, maps


@pytest.mark.parametrize("name", PLACES)
def test_results_lie_where_the_calculator_says(name: str) -> None:
    unit, maps = known(name)
    found = {}
    for lane in range(maps.wave):
        for element in range(unit.sums):
            found[number(unit.row(const(lane), element)), lane % SIDE] = ([lane], element)
    assert found == {(i, j): maps.result(i, j) for i in range(SIDE) for j in range(SIDE)}


@pytest.mark.parametrize("name", PLACES)
def test_operands_lie_where_the_calculator_says(name: str) -> None:
    """But for the order of the points summed over on gfx12, which is one for both operands."""
    unit, maps = known(name)
    theirs = {(i, k): maps.operand(i, k) for i in range(SIDE) for k in range(SIDE)}
    ours: dict[tuple[int, int], tuple[list[int], int]] = {}
    for lane in range(maps.wave):
        for element in range(unit.held):
            lanes, at = ours.setdefault((lane % SIDE, number(unit.depth(const(lane), element))), ([], element))
            assert at == element
            lanes.append(lane)
    assert ours.keys() == theirs.keys()
    order = [next(k for k in range(SIDE) if theirs[0, k] == ours[0, mine]) for mine in range(SIDE)]
    assert sorted(order) == list(range(SIDE))
    assert (order == list(range(SIDE))) == (name != "wmma12")
    assert all(theirs[i, order[k]] == place for (i, k), place in ours.items())


@pytest.mark.parametrize("name", PLACES)
def test_dealt_rows_make_the_sums_of_a_lane_neighbours(name: str) -> None:
    unit, maps = known(name)
    for lane in range(maps.wave):
        rows = [number(unit.dealt(unit.row(const(lane), e))) for e in range(unit.sums)]
        assert rows == list(range(lane // SIDE * unit.sums, (lane // SIDE + 1) * unit.sums))
    assert sorted(number(unit.dealt(const(i))) for i in range(SIDE)) == list(range(SIDE))


HARNESS = """
#include "amdgpu.h"
extern "C" void run(float* d, const char* a, const char* b, int bf16) {{
  emu_run(1, {wave}, 0, false, 0, [=]() {{
    int lane = emu_number;
    auto product = bf16 ? tw_{name}_bfloat16 : tw_{name}_float16;
    product(d + lane * {sums}, a + lane * {held} * 2, b + lane * {held} * 2);
  }});
}}
"""


@pytest.mark.parametrize("name", PLACES)
def test_the_emulator_multiplies_as_the_calculator_says(name: str, tmp_path: Path) -> None:
    unit, maps = known(name)
    source, library = tmp_path / "unit.cc", tmp_path / "unit.so"
    text = HARNESS.format(wave=maps.wave, name=name, sums=unit.sums, held=unit.held)
    source.write_text(text, encoding="utf-8")
    flags = ["-O1", "-std=c++17", "-fpermissive", "-w", "-shared", "-fPIC", f"-I{HERE}", f"-DEMU_WARP={maps.wave}"]
    subprocess.run(["g++", *flags, "-o", str(library), str(source)], check=True)
    run = ctypes.CDLL(str(library)).run
    for bf16, kind in enumerate((np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))):
        rng = np.random.default_rng(bf16)
        left, right = (rng.standard_normal((SIDE, SIDE)).astype(kind) for _ in range(2))
        start = rng.standard_normal((SIDE, SIDE)).astype(np.float32)
        operands: list[Any] = [np.zeros((maps.wave, unit.held), kind) for _ in range(2)]
        sums = np.zeros((maps.wave, unit.sums), np.float32)
        for i in range(SIDE):
            for k in range(SIDE):
                lanes, at = maps.operand(i, k)
                operands[0][lanes, at], operands[1][lanes, at] = left[i, k], right[k, i]
                lanes, at = maps.result(i, k)
                sums[lanes, at] = start[i, k]
        run(*(x.ctypes.data_as(ctypes.c_void_p) for x in (sums, *operands)), bf16)
        wanted = start + left.astype(np.float64) @ right.astype(np.float64)
        for i in range(SIDE):
            for j in range(SIDE):
                lanes, at = maps.result(i, j)
                np.testing.assert_allclose(sums[lanes, at], wanted[i, j], rtol=1e-5, atol=1e-5)
