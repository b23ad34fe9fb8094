"""Loads ROCm programs with TVM's runtime and HIP.

No machine of this project has an AMD GPU: that code objects are right is tested, that they run is not.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tilewright.errors import InputError, InternalError
from tilewright.runtime.native import NO_SYMBOLS, Array, TaskTime
from tilewright_backends.buffers import BufferTable, check_seal, load_library
from tilewright_backends.load import Calls, runtime_library

_TO_DEVICE, _TO_HOST = 1, 2
"""HIP's kinds of copies."""


class HipRuntime:
    """The HIP runtime library, through ctypes, and TVM's runtime for ROCm. Every call is checked.

    Raises:
        InputError: one of them is missing.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libamdhip64.so", ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise InputError(
                f"Running a ROCm program needs AMD's driver and the HIP runtime: {error}.",
                "Install ROCm 6 or newer, so that libamdhip64.so is found; inspect and explain need none of it.",
            ) from error
        folder = runtime_library().parent
        try:
            for name in ("libtvm_runtime.so", "libtvm_runtime_rocm.so"):
                ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise InputError(
                f"Running a ROCm program needs TVM's runtime for ROCm, which its wheel does not have: {error}.",
                f"Build TVM of the same version with USE_ROCM and put libtvm_runtime_rocm.so into {folder}.",
            ) from error
        self._library.hipGetErrorString.restype = ctypes.c_char_p

    def __call__(self, function: str, *args: Any) -> None:
        """Calls `function`. Raises InternalError with HIP's words when it fails."""
        status = getattr(self._library, function)(*args)
        if status:
            text = self._library.hipGetErrorString(status).decode()
            raise InternalError(f"{function}: {text} (HIP error {status}).")

    def allocate(self, size: int) -> int:
        """Device memory; the address. Poisoned: what nothing writes is read as NaN, not as old data."""
        pointer = ctypes.c_void_p()
        size = max(size, 256)
        self("hipMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        self("hipMemset", pointer, 0xFF, ctypes.c_size_t(size))
        return int(pointer.value or 0)

    def free(self, address: int) -> None:
        self("hipFree", ctypes.c_void_p(address))

    def copy(self, to: int, source: int, size: int, kind: int) -> None:
        """Copies between host and device, complete on return."""
        if size:
            self("hipMemcpy", ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size), kind)


class RocmProgram:
    """A loaded program: device buffers, a table of their addresses, and the function that runs over it."""

    def __init__(self, library: Path, weights: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        self._hip = HipRuntime()
        self._table = BufferTable(data)
        self.input_bytes, self.output_bytes = self._table.input_bytes, self._table.output_bytes
        with ExitStack() as held:  # what was taken is given back, also where the rest fails
            for number, size in self._table.sizes("input", "output", "workspace"):
                self._table.addresses[number] = self._hip.allocate(size)
                held.callback(self._hip.free, int(self._table.addresses[number]))
            for number, array in self._table.weights(weights):
                address = self._hip.allocate(array.nbytes)
                held.callback(self._hip.free, address)
                self._hip.copy(address, array.ctypes.data, array.nbytes, _TO_DEVICE)
                self._table.addresses[number] = address
            self._calls = Calls(self._table, data)
            self._module, self._main = load_library(library, data["entry"])
            self._held = held.pop_all()

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], symbols: Mapping[str, int] = NO_SYMBOLS) -> None:
        """Runs the program once. See `tilewright.runtime.native.NativeProgram`."""
        self._table.check(inputs, outputs)
        self._table.enter(symbols)
        for number, array in zip(self._table.inputs, inputs, strict=True):
            self._hip.copy(int(self._table.addresses[number]), array.ctypes.data, array.nbytes, _TO_DEVICE)
        self._launch()
        for number, array in zip(self._table.outputs, outputs, strict=True):
            self._hip.copy(array.ctypes.data, int(self._table.addresses[number]), array.nbytes, _TO_HOST)

    def _launch(self) -> None:
        """Runs the kernels on the device buffers and waits for them."""
        self._main(self._table.pointer)
        self._hip("hipDeviceSynchronize")
        self._calls.check()

    def measure(self, rounds: int) -> list[float]:
        """See `tilewright.runtime.native.NativeProgram`. By the host's clock, the start of each kernel included."""
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            self._launch()
            seconds.append(time.perf_counter() - start)
        return seconds

    def timeline(self) -> dict[str, list[TaskTime]]:
        """Nothing: launches are not traced here."""
        return {}

    def close(self) -> None:
        """Frees the device buffers and unloads the library."""
        self._main = self._module = None
        self._held.close()


def device() -> dict[str, str]:
    """What device 0 is called, and the versions of driver and runtime as HIP numbers them.

    Raises:
        InputError: HIP or TVM's runtime for ROCm is missing.
    """
    hip = HipRuntime()
    name, driver, runtime = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
    hip("hipDeviceGetName", name, len(name), 0)
    hip("hipDriverGetVersion", ctypes.byref(driver))
    hip("hipRuntimeGetVersion", ctypes.byref(runtime))
    return {"device": name.value.decode(), "HIP driver": str(driver.value), "HIP runtime": str(runtime.value)}


def load_rocm(
    library: Path, weights: Mapping[str, Array], data: Mapping[str, Any], *, target: str, threads: int
) -> RocmProgram:
    """The ROCm loader. See `tilewright.runtime.native.Loader`."""
    check_seal(data, target)
    return RocmProgram(library, weights, data)
