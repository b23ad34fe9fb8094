"""Loads built libraries with TVM's runtime alone: `tvm_ffi` and libtvm_runtime, not the package `tvm`."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.errors import InputError
from tilewright.ir.calls import too_deep
from tilewright.runtime.native import NO_SYMBOLS, Array, TaskTime
from tilewright_backends import cpu_features, runners
from tilewright_backends.buffers import CONTROL, BufferTable, check_seal, load_library

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


def device() -> dict[str, str]:
    """What the operating system calls the processor."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    names = (x.partition(":")[2].strip() for x in text.splitlines() if x.startswith("model name"))
    return {"device": next(names, "unknown"), "processors": str(len(os.sched_getaffinity(0)))}


class CpuProgram:
    """A loaded program: a table of buffer addresses and the function that runs over it, on a runner's thread."""

    def __init__(self, library: Path, weights: Mapping[str, Array], data: Mapping[str, Any], threads: int) -> None:
        self._runtime = ctypes.CDLL(str(runtime_library()), ctypes.RTLD_GLOBAL)
        self._module, self._main = load_library(library, data["entry"])
        self._table = BufferTable(data)
        self.input_bytes, self.output_bytes = self._table.input_bytes, self._table.output_bytes
        self._threads = threads
        self._turn = threading.Lock()  # a run that an interrupt left behind may still use the table
        self._kept: list[Array] = []  # weights and workspace, as long as their addresses are in the table
        self._keep(self._table.weights(weights))
        self._keep((number, aligned(size)) for number, size in self._table.sizes("workspace", "event"))
        self._calls = Calls(self._table, data)

    def _keep(self, arrays: Iterable[tuple[int, Array]]) -> None:
        for number, array in arrays:
            self._kept.append(array)
            self._table.addresses[number] = array.ctypes.data

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], symbols: Mapping[str, int] = NO_SYMBOLS) -> None:
        """Runs the program once. See `tilewright.runtime.native.NativeProgram`."""
        self._table.check(inputs, outputs)
        main, kept = self._main, self._kept

        def run() -> None:
            with self._turn:
                self._table.enter(symbols)
                for number, array in zip(self._table.inputs, inputs, strict=True):
                    self._table.addresses[number] = array.ctypes.data
                for number, array in zip(self._table.outputs, outputs, strict=True):
                    self._table.addresses[number] = array.ctypes.data
                self._call(main, kept)

        runners.call(self._threads, run)

    def measure(self, rounds: int) -> list[float]:
        """See `tilewright.runtime.native.NativeProgram`. The arrays of the last run must still be alive."""
        main, kept = self._main, self._kept

        def run() -> list[float]:
            seconds = []
            with self._turn:
                for _ in range(rounds):
                    start = time.perf_counter()
                    self._call(main, kept)
                    seconds.append(time.perf_counter() - start)
            return seconds

        return runners.call(self._threads, run)

    def _call(self, main: Any, kept: Sequence[Array]) -> None:
        """Runs over the table. Its addresses are those of `kept`, alive until the end even if `close` comes."""
        main(self._table.pointer)
        self._calls.check()

    def timeline(self) -> dict[str, list[TaskTime]]:
        """Nothing: launches are not traced here."""
        return {}

    def close(self) -> None:
        """Unloads the library and frees the workspace; what a run needs that an interrupt left behind, when it ends."""
        self._main = self._module = None
        self._kept = []


class Calls:
    """The host's numbers of active calls, and how one that goes too deep is reported.

    Args:
        table: gets the address of the numbers, where the program has procedures.
        data: what the builder told.
    """

    def __init__(self, table: BufferTable, data: Mapping[str, Any]) -> None:
        self._procedures = list(data.get("procedures", ()))
        self._depth = int(data.get("depth", 0))
        self._control = np.zeros(1, np.int64)
        for number, size in table.sizes(CONTROL):
            self._control = aligned(size).view(np.int64)
            table.addresses[number] = self._control.ctypes.data

    def check(self, status: int = 0) -> None:
        """Raises InputError when the run that has just ended met a call beyond the bound.

        Args:
            status: that launches have left.
        """
        found = status or int(self._control[0])
        if self._procedures and found:
            raise too_deep(self._procedures[found - 1], self._depth)


def aligned(size: int) -> Array:
    """`size` bytes that start at a cache line. Raises InputError where there is no memory for them."""
    try:
        raw = np.empty(size + _ALIGNMENT, np.uint8)
    except MemoryError as error:
        raise InputError(f"There is no memory for the program's workspace, which takes {size} bytes.") from error
    offset = -raw.ctypes.data % _ALIGNMENT
    return raw[offset : offset + size]


def load_cpu(
    library: Path, weights: Mapping[str, Array], data: Mapping[str, Any], *, target: str, threads: int
) -> CpuProgram:
    """The CPU's loader. See `tilewright.runtime.native.Loader`.

    Raises:
        InputError: this machine lacks instructions that the program may use; its units wait for each other, and it
            may use fewer threads than there are units.
        DamagedError: library, weights and `data` do not belong together.
    """
    check_seal(data, target)
    together = int(data.get("together", 0))
    if threads < together:
        raise InputError(
            f"The program's {together} units wait for each other, and it may use {threads} of {together} threads.",
            f"Let it use {together} threads, or compile it for {threads}.",
        )
    cpu_features.require(data["features"], target)
    return CpuProgram(library, weights, data, threads)
