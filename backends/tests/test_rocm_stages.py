"""`rocm.stages` on matrix units: on the emulator beside float64, and as machine code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from backends.tests.test_cuda_stages import block, exact, program
from backends.tests.test_rocm_build import MATRIX, check_object
from backends.tests.test_rocm_matrix import settings_for
from tilewright.compiler import build_program


@pytest.mark.parametrize("device", ["gfx90a", "gfx1100", "gfx1201"])
def test_a_block_of_convolutions_agrees_with_float64(device: str) -> None:
    settings, one = settings_for(device), block("float16", 2)
    (found,) = emulate(program(one, settings, i1=3, i2=4), settings, [one.feeds["x"]])
    wanted = exact(one, 2)
    assert found.shape == wanted.shape
    assert np.linalg.norm(found.astype(np.float64) - wanted) < 2e-3 * np.linalg.norm(wanted)


@pytest.mark.parametrize(("dtype", "arch"), [("float16", "gfx942"), ("float16", "gfx1100"), ("float32", "gfx1201")])
def test_products_of_16_bit_floats_run_on_matrix_units(dtype: str, arch: str, tmp_path: Path) -> None:
    settings = settings_for(arch)
    output = build_program(program(block(dtype), settings, i1=3, i2=3), settings, tmp_path)
    text = check_object(tmp_path, dict(output.data), arch)
    assert (MATRIX[arch] in text) == (dtype == "float16")
    assert not any(k["spill_bytes"] for k in output.data["kernels"].values())
