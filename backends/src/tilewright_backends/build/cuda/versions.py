"""Versions that CUDA code depends on, without importing TVM."""

from __future__ import annotations

from tilewright_backends import tvm_env
from tilewright_backends.build.cuda.compile import compiler_version


def versions() -> dict[str, str]:
    """Compiler and toolchain versions by name."""
    return {**tvm_env.versions(), "cuda compiler": compiler_version()}
