"""The device model of a CPU from what the operating system tells of it."""

from __future__ import annotations

import pytest

from tilewright.device.probe import cpu_model

AVX2 = frozenset({"avx2", "fma"})
AVX512 = AVX2 | {"avx512f"}


@pytest.mark.parametrize(
    ("arch", "features", "vector", "fmas"),
    [
        ("znver3", AVX2, 32, 2),
        ("znver4", AVX2, 32, 2),
        ("znver4", AVX512, 64, 1),
        ("znver5", AVX512, 64, 2),
        ("skylake-avx512", AVX512, 64, 2),
        ("tigerlake", AVX512, 64, 1),
    ],
)
def test_how_many_multiply_adds_begin_in_a_cycle(arch: str, features: frozenset[str], vector: int, fmas: int) -> None:
    model = cpu_model("some", arch, features)
    assert (model.vector_bytes, model.vector_fmas) == (vector, fmas)
    assert model.peak["fma"] == 3e9 * 2 * fmas * vector / 4
