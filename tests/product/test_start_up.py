"""`import tilewright` costs next to nothing."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest


def _best_of_five(module: str) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        times.append(time.perf_counter() - start)
    return min(times)


def test_the_package_is_imported_about_as_fast_as_numpy() -> None:
    assert _best_of_five("tilewright") <= _best_of_five("numpy") + 0.15


@pytest.mark.parametrize("use", ["", "tilewright.load; "])
def test_neither_importing_nor_loading_needs_tvm_or_onnx(use: str) -> None:
    script = (
        f"import sys, tilewright; {use}"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'tvm', 'tvm_ffi', 'onnx', 'torch'}))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
