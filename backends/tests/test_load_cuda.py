"""What a loaded CUDA program takes from a device and gives back, with the host's memory standing for the device's."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilewright.errors import DamagedError, InputError
from tilewright_backends import load_cuda, residency

DATA = {
    "arch": "sm_90a",
    "capturable": False,
    "entry": "main",
    "buffers": [["x", "input", 16], ["w", "weight", 16], ["v", "weight", 16], ["y", "output", 16]],
}


class HostMemory:
    """CUDA's runtime as far as memory and streams go."""

    buffers: dict[int, Any]
    streams: int

    def __call__(self, function: str, *args: Any) -> None:
        match function:
            case "cudaStreamCreate":
                HostMemory.streams += 1
            case "cudaStreamDestroy":
                HostMemory.streams -= 1
            case "cudaStreamSynchronize":
                pass
            case "cudaMemcpyAsync":
                ctypes.memmove(args[0], args[1], args[2].value)
            case "cudaMemset":
                ctypes.memset(args[0], args[1], args[2].value)
            case "cudaFree":
                del HostMemory.buffers[args[0].value]
            case _:
                pytest.fail(f"{function} was called")

    def allocate(self, size: int, fill: int = 0) -> int:
        buffer = ctypes.create_string_buffer(bytes([fill]) * size, size)
        HostMemory.buffers[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def multiprocessors(self) -> int:
        return 132

    def compute_capability(self) -> tuple[int, int]:
        return 9, 0


def added(pointer: ctypes.c_void_p) -> None:
    """y = x + w + v."""
    table = (ctypes.c_uint64 * 4).from_address(pointer.value or 0)
    x, w, v, y = (np.frombuffer((ctypes.c_char * 16).from_address(place), np.float32) for place in table)
    y[...] = x + w + v


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> type[HostMemory]:
    HostMemory.buffers, HostMemory.streams = {}, 0
    monkeypatch.setattr(load_cuda, "CudaRuntime", HostMemory)
    monkeypatch.setattr(load_cuda, "load_library", lambda path, entry: (object(), added))
    monkeypatch.setattr(load_cuda.tvm_ffi, "get_global_func", lambda name: lambda *args: None)
    return HostMemory


def run(program: load_cuda.CudaProgram, x: float) -> list[float]:
    y = np.empty(4, np.float32)
    program.run([np.full(4, x, np.float32)], [y])
    return [float(value) for value in y]


def test_two_programs_share_the_weights_that_lie_at_one_place(memory: type[HostMemory]) -> None:
    both, other = np.ones(8, np.float32), np.full(4, 5, np.float32)
    first = load_cuda.CudaProgram(Path("library.so"), {"w": both[:4], "v": both[4:]}, DATA)
    assert (len(memory.buffers), memory.streams) == (4, 1)
    second = load_cuda.CudaProgram(Path("library.so"), {"w": both[:4], "v": other}, DATA)
    assert (len(memory.buffers), memory.streams) == (7, 2)
    assert (run(first, 1), run(second, 2)) == ([3.0] * 4, [8.0] * 4)
    first.close()
    assert run(second, 3) == [9.0] * 4
    assert (len(memory.buffers), memory.streams) == (4, 1)
    second.close()
    assert (memory.buffers, memory.streams) == ({}, 0)


def test_a_program_that_cannot_be_loaded_gives_everything_back(
    memory: type[HostMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, entry: str) -> Any:
        raise DamagedError("its library is another one")

    monkeypatch.setattr(load_cuda, "load_library", refused)
    w = np.ones(4, np.float32)
    with pytest.raises(DamagedError):
        load_cuda.CudaProgram(Path("library.so"), {"w": w, "v": w}, DATA)
    assert (memory.buffers, memory.streams) == ({}, 0)


def test_event_buffers_begin_with_zeros(memory: type[HostMemory]) -> None:
    data = {**DATA, "buffers": [*DATA["buffers"], ["all.events", "event", 512]]}  # type: ignore[misc]
    w = np.ones(4, np.float32)
    program = load_cuda.CudaProgram(Path("library.so"), {"w": w, "v": w}, data)
    events = memory.buffers[int(program._table.addresses[4])]
    assert events.raw == bytes(512)
    x = memory.buffers[int(program._table.addresses[0])]
    assert x.raw == b"\xff" * 16
    program.close()


def test_a_launch_that_is_not_resident_is_refused_before_anything_is_taken(
    memory: type[HostMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = {"blocks": 264, "threads": 512, "shared_bytes": 99, "registers": 100}
    data = {**DATA, "cooperative": {"all": "tw_persistent_0"}, "kernels": {"tw_persistent_0": kernel}}
    w = np.ones(4, np.float32)
    held = {b"cubin": 1}
    monkeypatch.setattr(residency, "machine_code", lambda path: [b"cubin", b"of kernels that decide"])
    monkeypatch.setattr(residency, "blocks_held", lambda code, kernels: dict.fromkeys(kernels, held[code]))
    with pytest.raises(InputError, match="'all' needs 264 blocks on the GPU at once, and this one holds 132"):
        load_cuda.CudaProgram(Path("library.so"), {"w": w, "v": w}, data)
    assert (memory.buffers, memory.streams) == ({}, 0)
    held[b"cubin"] = 2
    load_cuda.CudaProgram(Path("library.so"), {"w": w, "v": w}, data).close()


def test_a_call_that_a_launch_reports_as_too_deep_is_an_error_of_that_run_only(
    memory: type[HostMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    def deep(pointer: ctypes.c_void_p) -> None:
        """Launches do nothing after one that has reported procedure "g" for an x above 10."""
        table = (ctypes.c_uint64 * 5).from_address(pointer.value or 0)
        status = ctypes.c_uint32.from_address(table[4])
        if ctypes.c_float.from_address(table[0]).value > 10:
            status.value = 2
        if not status.value:
            added(pointer)

    monkeypatch.setattr(load_cuda, "load_library", lambda path, entry: (object(), deep))
    told = {"procedures": ["f", "g"], "depth": 3, "status": "calls.status"}
    data = {**DATA, **told, "buffers": [*DATA["buffers"], ["calls.status", "event", 128]]}  # type: ignore[misc]
    w = np.ones(4, np.float32)
    program = load_cuda.CudaProgram(Path("library.so"), {"w": w, "v": w}, data)
    assert run(program, 1) == [3.0] * 4
    with pytest.raises(InputError, match="of function 'g' is deeper than its bound of 3 calls"):
        run(program, 11)
    assert run(program, 2) == [4.0] * 4
    program.close()
