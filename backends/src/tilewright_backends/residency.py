"""Whether all blocks of a launch that wait for each other are on the GPU at once: asked of the driver when loading.

A block that spins for one that has no place yet would spin for ever. The driver says how many blocks of a kernel a
multiprocessor holds; it also refuses a cooperative launch of more, so this is about saying why, and in time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tilewright.errors import InputError, InternalError
from tilewright_backends.machine_code import machine_code

_MAX_DYNAMIC_SHARED = 8
"""The driver's number of the attribute of a function."""


def check_resident(multiprocessors: Callable[[], int], library: Path, data: Mapping[str, Any]) -> None:
    """Raises InputError where a cooperative launch of a library does not fit on the device of the current context.

    Args:
        multiprocessors: how many the device has; asked only when there is such a launch.
        data: what the builder told of the library.
    """
    cooperative: Mapping[str, str] = data.get("cooperative", {})
    if not cooperative:
        return
    code, *_ = machine_code(library)  # behind it may stand that of kernels by which the device decides
    units = multiprocessors()
    held = blocks_held(code, {name: data["kernels"][name] for name in cooperative.values()})
    for launch, name in cooperative.items():
        kernel = data["kernels"][name]
        if kernel["blocks"] > units * held[name]:
            raise InputError(
                f"Launch {launch!r} needs {kernel['blocks']} blocks on the GPU at once, and this one holds "
                f"{units * held[name]} of {kernel['threads']} threads, {kernel['registers']} registers a thread and "
                f"{kernel['shared_bytes']} bytes of shared memory: {held[name]} on each of {units} multiprocessors.",
                "Compile the model for this GPU (--target), or with a schedule in which no unit waits: "
                'one-kernel-per-group, or rammer with policy = "launches".',
            )


def blocks_held(code: bytes, kernels: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """How many blocks of each kernel one multiprocessor holds.

    Args:
        code: a cubin.
        kernels: threads and dynamic shared memory of a block, by symbol.
    """
    driver = _Driver()
    module = ctypes.c_void_p()
    driver("cuModuleLoadData", ctypes.byref(module), code)
    try:
        return {name: _held(driver, module, name, x["threads"], x["shared_bytes"]) for name, x in kernels.items()}
    finally:
        driver("cuModuleUnload", module)


def _held(driver: _Driver, module: ctypes.c_void_p, name: str, threads: int, shared_bytes: int) -> int:
    function, blocks = ctypes.c_void_p(), ctypes.c_int()
    driver("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
    driver("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, shared_bytes)
    size = ctypes.c_size_t(shared_bytes)
    driver("cuOccupancyMaxActiveBlocksPerMultiprocessor", ctypes.byref(blocks), function, threads, size)
    return blocks.value


class _Driver:
    """The CUDA driver through ctypes. Every call is checked."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def __call__(self, function: str, *args: Any) -> None:
        status = getattr(self._library, function)(*args)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            raise InternalError(f"{function}: {(text.value or b'unknown').decode()} (CUDA driver error {status}).")
