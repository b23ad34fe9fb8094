"""Versions that ROCm code depends on, without importing TVM."""

from __future__ import annotations

import hashlib

from tilewright.workers import run_tool
from tilewright_backends import tvm_env
from tilewright_backends.build.rocm.tools import device_libraries, linker


def versions() -> dict[str, str]:
    """Toolchain versions by name; the device libraries carry none, so by their contents.

    Raises:
        InputError: the linker or the libraries are missing.
    """
    lld = run_tool([linker(), "--version"]).stdout.split("(", 1)[0].strip()
    digest = hashlib.sha256(device_libraries().read_bytes()).hexdigest()[:16]
    return {**tvm_env.versions(), "rocm linker": lld, "rocm device libraries": digest}
