"""Loads built libraries with TVM's runtime alone: `tvm_ffi` and libtvm_runtime, not the package `tvm`."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from tilewright.errors import InputError, InternalError
from tilewright.runtime.native import Array
from tilewright_backends import cpu_features

_ALIGNMENT = 64


def runtime_library() -> Path:
    """libtvm_runtime of the installed TVM. Raises InputError when there is none."""
    found = importlib.util.find_spec("tvm")
    if found is None or found.origin is None:
        raise InputError(
            "Running a program needs TVM's runtime library, which is not installed.",
            "Install it with `pip install tilewright-backends`.",
        )
    return Path(found.origin).parent / "lib" / "libtvm_runtime.so"


class CpuProgram:
    """A loaded program: a table of buffer addresses and the function that runs over it."""

    def __init__(self, library: Path, weights: Mapping[str, Array], data: Mapping[str, Any], threads: int) -> None:
        # The pool takes its size from the environment when it first runs. It must not pin the caller's thread.
        os.environ["TVM_NUM_THREADS"] = str(threads)
        os.environ.setdefault("TVM_BIND_THREADS", "0")
        self._runtime = ctypes.CDLL(str(runtime_library()), ctypes.RTLD_GLOBAL)
        self._module: Any = tvm_ffi.load_module(str(library.resolve()))
        self._main: Any = self._module[data["entry"]]
        self._weights = dict(weights)
        self._inputs: list[int] = []
        self._outputs: list[int] = []
        buffers = list(data["buffers"])
        self._table = np.zeros(max(len(buffers), 1), np.uint64)
        self._pointer = ctypes.c_void_p(self._table.ctypes.data)
        for number, (name, kind, size) in enumerate(buffers):
            if kind == "input":
                self._inputs.append(number)
            elif kind == "output":
                self._outputs.append(number)
            elif kind == "weight":
                self._table[number] = self._weights[name].ctypes.data
            else:
                self._workspace = aligned(int(size))
                self._table[number] = self._workspace.ctypes.data

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Runs the program once. See `tilewright.runtime.native.NativeProgram`."""
        if len(inputs) != len(self._inputs) or len(outputs) != len(self._outputs):
            raise InternalError(
                f"The program takes {len(self._inputs)} inputs and {len(self._outputs)} outputs, "
                f"got {len(inputs)} and {len(outputs)}."
            )
        for number, array in zip(self._inputs, inputs, strict=True):
            self._table[number] = array.ctypes.data
        for number, array in zip(self._outputs, outputs, strict=True):
            self._table[number] = array.ctypes.data
        self._main(self._pointer)

    def measure(self, rounds: int) -> list[float]:
        """See `tilewright.runtime.native.NativeProgram`. The arrays of the last run must still be alive."""
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            self._main(self._pointer)
            seconds.append(time.perf_counter() - start)
        return seconds

    def close(self) -> None:
        """Unloads the library and frees the workspace."""
        self._main = self._module = None
        self._weights = {}


def aligned(size: int) -> Array:
    """`size` bytes that start at a cache line."""
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % _ALIGNMENT
    return raw[offset : offset + size]


def load_cpu(
    library: Path, weights: Mapping[str, Array], data: Mapping[str, Any], *, target: str, threads: int
) -> CpuProgram:
    """The CPU's loader. See `tilewright.runtime.native.Loader`.

    Raises:
        InputError: this machine lacks instructions that the program may use.
    """
    cpu_features.require(data["features"], target)
    return CpuProgram(library, weights, data, threads)
