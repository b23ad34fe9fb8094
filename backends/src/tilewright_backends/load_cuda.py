"""Loads CUDA programs with TVM's runtime alone and runs them, as a CUDA graph once the addresses are known to stay."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import tvm_ffi

from tilewright.errors import InputError, InternalError
from tilewright.runtime.native import NO_SYMBOLS, Array, TaskTime
from tilewright_backends.buffers import BufferTable, check_seal, load_library
from tilewright_backends.device_weights import SHARED
from tilewright_backends.load import Calls, runtime_library
from tilewright_backends.residency import check_resident
from tilewright_backends.timeline import task_times

_log = logging.getLogger(__name__)

_CUDA = 2
"""DLPack's device type."""
_TO_DEVICE, _TO_HOST = 1, 2
_THREAD_LOCAL_CAPTURE, _RELAXED_CAPTURE = 1, 2
_POISON = 0xFF
_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_MOST_HELD = 0.1  # seconds
_MOST_GRAPHS = 8
"""Sets of symbol values that are remembered, each with its graph if it came more than once."""


class CudaRuntime:
    """The CUDA runtime library, through ctypes. Every call is checked.

    Raises:
        InputError: there is no CUDA driver or runtime library.
    """

    def __init__(self) -> None:
        try:
            ctypes.CDLL("libcuda.so.1", ctypes.RTLD_GLOBAL)
            self._library = ctypes.CDLL(_cudart(), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise InputError(
                f"Running a CUDA program needs an NVIDIA driver and libcudart.so.13: {error}.",
                "Install the driver, and CUDA 13 or `pip install 'tilewright-backends[cuda]'`.",
            ) from error
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        folder = runtime_library().parent
        for name in ("libtvm_runtime.so", "libtvm_runtime_cuda.so"):
            ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)

    def __call__(self, function: str, *args: Any) -> None:
        """Calls `function`. Raises InternalError with CUDA's words when it fails."""
        status = getattr(self._library, function)(*args)
        if status:
            raise self.error(function, status)

    def error(self, function: str, status: int) -> InternalError:
        """What CUDA says about the status of a call."""
        text = self._library.cudaGetErrorString(status).decode()
        return InternalError(f"{function}: {text} (CUDA error {status}).")

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self("cudaDeviceGetAttribute", ctypes.byref(value), number, 0)
        return value.value

    def compute_capability(self) -> tuple[int, int]:
        """That of device 0."""
        return self._attribute(75), self._attribute(76)

    def multiprocessors(self) -> int:
        """Those of device 0."""
        return self._attribute(16)

    def allocate(self, size: int, fill: int = _POISON) -> int:
        """Device memory; the address. Poisoned, if not filled otherwise: what nothing writes is read as NaN."""
        pointer = ctypes.c_void_p()
        size = max(size, 256)
        self("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        self("cudaMemset", pointer, fill, ctypes.c_size_t(size))
        return int(pointer.value or 0)


def _cudart() -> str:
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        for path in sorted(Path(folder).glob("*/lib/libcudart.so.13")):
            return str(path)
    return "libcudart.so.13"


def device() -> dict[str, str]:
    """What device 0 is called, and the versions of driver and runtime as CUDA numbers them.

    Raises:
        InputError: there is no CUDA driver or runtime library.
    """
    cuda = CudaRuntime()
    driver, runtime = ctypes.c_int(), ctypes.c_int()
    cuda("cudaDriverGetVersion", ctypes.byref(driver))
    cuda("cudaRuntimeGetVersion", ctypes.byref(runtime))
    name = ctypes.create_string_buffer(256)
    library = ctypes.CDLL("libcuda.so.1")
    for function, *args in (("cuInit", 0), ("cuDeviceGetName", name, len(name), 0)):
        status = getattr(library, function)(*args)
        if status:
            raise InternalError(f"{function} failed (CUDA driver error {status}).")
    return {"device": name.value.decode(), "CUDA driver": str(driver.value), "CUDA runtime": str(runtime.value)}


class CudaProgram:
    """A loaded program: device buffers, a table of their addresses, and the function that runs over it.

    The first run calls the function; from the second on, a graph captured from it is replayed, unless the host program
    decides by values of the device, for which it has to wait. With symbols there is a graph for each of the last few
    sets of values that came more than once. Loops and branches that the device decides are nodes of the graph; where
    CUDA refuses these, a warning says so and the host goes on deciding.
    """

    def __init__(self, library: Path, weights: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        self._cuda = CudaRuntime()
        _check_device(self._cuda, str(data["arch"]))
        self._graphs: dict[tuple[int, ...], ctypes.c_void_p | None] = {}  # None: the values came once
        self._capturable = bool(data["capturable"])
        self._conditional = int(data.get("conditional", 0))
        self._reported = str(data.get("status", ""))
        self._traced: Mapping[str, Any] = data.get("traced", {})
        self._table = BufferTable(data)
        self.input_bytes, self.output_bytes = self._table.input_bytes, self._table.output_bytes
        with ExitStack() as held:  # what was taken is given back, also where the rest fails
            self._stream = ctypes.c_void_p()
            self._cuda("cudaStreamCreate", ctypes.byref(self._stream))
            held.callback(self._cuda, "cudaStreamDestroy", self._stream)
            check_resident(self._cuda.multiprocessors, library, data)
            for kinds, fill in ((("input", "output", "workspace"), _POISON), (("event",), 0)):
                for number, size in self._table.sizes(*kinds):
                    address = self._cuda.allocate(size, fill)
                    held.callback(self._free, address)
                    self._table.addresses[number] = address
            for number, array in self._table.weights(weights):
                self._table.addresses[number] = SHARED.take(array, self._copied)
                held.callback(SHARED.give_back, array, self._free)
            self._calls = Calls(self._table, data)
            self._set_stream: Any = tvm_ffi.get_global_func("runtime.TVMSetStream")
            self._module, self._main = load_library(library, data["entry"])
            self._failed: Any = ctypes.CDLL(str(library.resolve())).tw_graph_failed if self._conditional else None
            self._cuda("cudaStreamSynchronize", self._stream)
            self._held = held.pop_all()

    def _copied(self, array: Array) -> int:
        """The device address of a copy, which is complete."""
        address = self._cuda.allocate(array.nbytes)
        self._upload(address, array)
        self._cuda("cudaStreamSynchronize", self._stream)
        return address

    def _free(self, address: int) -> None:
        self._cuda("cudaFree", ctypes.c_void_p(address))

    def _upload(self, address: int, array: Array) -> None:
        if array.nbytes:
            self._cuda(
                "cudaMemcpyAsync",
                ctypes.c_void_p(address),
                ctypes.c_void_p(array.ctypes.data),
                ctypes.c_size_t(array.nbytes),
                _TO_DEVICE,
                self._stream,
            )

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], symbols: Mapping[str, int] = NO_SYMBOLS) -> None:
        """Runs the program once. See `tilewright.runtime.native.NativeProgram`."""
        self._table.check(inputs, outputs)
        self._table.enter(symbols)
        for number, array in zip(self._table.inputs, inputs, strict=True):
            self._upload(int(self._table.addresses[number]), array)
        self.launch()
        for number, array in zip(self._table.outputs, outputs, strict=True):
            if array.nbytes:
                self._cuda(
                    "cudaMemcpyAsync",
                    ctypes.c_void_p(array.ctypes.data),
                    ctypes.c_void_p(int(self._table.addresses[number])),
                    ctypes.c_size_t(array.nbytes),
                    _TO_HOST,
                    self._stream,
                )
        status = self._status()
        self._cuda("cudaStreamSynchronize", self._stream)
        self._check(status)

    def _status(self) -> ctypes.c_uint32:
        """Gets what launches that make calls report; it is there when the stream has been waited for."""
        status = ctypes.c_uint32()
        if self._reported:
            _, address = self._table.place(self._reported)
            source, size = ctypes.c_void_p(address), ctypes.c_size_t(ctypes.sizeof(status))
            self._cuda("cudaMemcpyAsync", ctypes.byref(status), source, size, _TO_HOST, self._stream)
        return status

    def _check(self, status: ctypes.c_uint32) -> None:
        """Raises InputError where a launch met a call beyond the bound; the next run begins anew."""
        if status.value:
            size, address = self._table.place(self._reported)
            self._cuda("cudaMemset", ctypes.c_void_p(address), 0, ctypes.c_size_t(size))
            self._calls.check(status.value)

    def launch(self) -> None:
        """Starts the kernels on the device buffers, without copies and without waiting."""
        values = self._table.values
        came_before = values in self._graphs
        graph = self._graphs.pop(values, None)  # put back below as the youngest
        if graph is not None:
            self._graphs[values] = graph
            self._cuda("cudaGraphLaunch", graph, self._stream)
            return
        self._set_stream(_CUDA, 0, self._stream)
        self._main(self._table.pointer)
        self._check_control()
        try:
            self._calls.check()
        except InputError:
            # The arrays of the caller may still be read. An error of CUDA, after which conditions are 0, comes first.
            self._cuda("cudaStreamSynchronize", self._stream)
            raise
        if self._capturable:
            if came_before or not values:
                # The first run loads the machine code, which must not happen under capture.
                self._cuda("cudaStreamSynchronize", self._stream)
                graph = self._capture()
            self._graphs[values] = graph
            while len(self._graphs) > _MOST_GRAPHS:
                self._drop(next(iter(self._graphs)))

    def _drop(self, values: tuple[int, ...]) -> None:
        graph = self._graphs.pop(values)
        if graph is not None:
            self._cuda("cudaStreamSynchronize", self._stream)
            self._cuda("cudaGraphExecDestroy", graph)

    def _capture(self) -> ctypes.c_void_p | None:
        """The graph of a run; None, from now on, where CUDA refuses the nodes by which the device decides."""
        if not self._conditional:
            return self._captured(_THREAD_LOCAL_CAPTURE)
        try:
            # A side that was not taken before loads its machine code now, which only this mode allows.
            return self._captured(_RELAXED_CAPTURE)
        except InternalError as error:
            _log.warning("The host decides %d loops and branches, for no graph can: %s", self._conditional, error)
            self._capturable = False
            return None

    def _captured(self, mode: int) -> ctypes.c_void_p:
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._cuda("cudaStreamBeginCapture", self._stream, mode)
        try:
            self._main(self._table.pointer)
            self._check_control()
        except BaseException:
            self._end_control()
            with suppress(InternalError):  # what went wrong first says more
                self._cuda("cudaStreamEndCapture", self._stream, ctypes.byref(graph))
            raise
        self._cuda("cudaStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            self._cuda("cudaGraphInstantiate", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            self._cuda("cudaGraphDestroy", graph)
        return executable

    def _check_control(self) -> None:
        """Raises InternalError with CUDA's words where what the device decides could not be said."""
        call, status = self._end_control()
        if status:
            raise self._cuda.error(call, status)

    def _end_control(self) -> tuple[str, int]:
        """Ends what is left of nodes that are being captured: the call that failed, and its status or 0."""
        if self._failed is None:
            return "", 0
        call = ctypes.c_char_p()
        status = int(self._failed(ctypes.byref(call)))
        return (call.value or b"").decode(), status

    def measure(self, rounds: int) -> list[float]:
        """See `tilewright.runtime.native.NativeProgram`. By device events around each run, queued back to back.

        The stream is held until all is queued, or a short run would end before the host has asked for the next one.
        """
        events = [ctypes.c_void_p() for _ in range(2 * rounds)]
        for event in events:
            self._cuda("cudaEventCreate", ctypes.byref(event))
        try:
            self.launch()
            self.launch()  # the second launch ever captures the graph
            with self._held_back():
                for first, last in zip(events[::2], events[1::2], strict=True):
                    self._cuda("cudaEventRecord", first, self._stream)
                    self.launch()
                    self._cuda("cudaEventRecord", last, self._stream)
            status = self._status()
            self._cuda("cudaStreamSynchronize", self._stream)
            self._check(status)
            return [self._elapsed(first, last) for first, last in zip(events[::2], events[1::2], strict=True)]
        finally:
            for event in events:
                self._cuda("cudaEventDestroy", event)

    @contextmanager
    def _held_back(self) -> Iterator[None]:
        """What is queued here starts when the block ends, or after a moment: a full queue makes the host wait."""
        if not self._capturable:  # the host program waits for the device itself
            yield
            return
        queued = threading.Event()

        def wait(_: int | None) -> None:
            queued.wait(_MOST_HELD)

        waiting = _HOST_FUNCTION(wait)
        self._cuda("cudaLaunchHostFunc", self._stream, waiting, None)
        try:
            yield
        finally:
            queued.set()
            self._cuda("cudaStreamSynchronize", self._stream)  # nothing calls `waiting` later

    def timeline(self) -> dict[str, list[TaskTime]]:
        """What the units of each traced launch did in its last run, by the launch's name."""
        found = {}
        for name, told in self._traced.items():
            size, address = self._table.place(told["buffer"])
            buffer = ctypes.create_string_buffer(size)
            source = ctypes.c_void_p(address)
            self._cuda("cudaMemcpyAsync", buffer, source, ctypes.c_size_t(size), _TO_HOST, self._stream)
            self._cuda("cudaStreamSynchronize", self._stream)
            found[name] = task_times(told, buffer.raw)
        return found

    def _elapsed(self, first: ctypes.c_void_p, last: ctypes.c_void_p) -> float:
        milliseconds = ctypes.c_float()
        self._cuda("cudaEventElapsedTime", ctypes.byref(milliseconds), first, last)
        return milliseconds.value * 1e-3

    def close(self) -> None:
        """Frees the device buffers and unloads the library."""
        self._cuda("cudaStreamSynchronize", self._stream)
        for values in tuple(self._graphs):
            self._drop(values)
        self._main = self._module = None
        self._held.close()


def _check_device(cuda: CudaRuntime, arch: str) -> None:
    """Raises InputError when device 0 cannot run code for `arch`."""
    major, minor = cuda.compute_capability()
    digits = arch.removeprefix("sm_")
    wanted = int(digits.rstrip("abcdefghijklmnopqrstuvwxyz"))
    have = 10 * major + minor
    exact = not digits.isdigit()
    if (exact and have != wanted) or have < wanted or have // 10 != wanted // 10:
        raise InputError(
            f"The program was built for {arch}, and this machine's GPU has compute capability {major}.{minor}.",
            f"Compile the model for it (--target cuda:sm_{have}{'a' if have == 90 else ''}).",
        )


def load_cuda(
    library: Path, weights: Mapping[str, Array], data: Mapping[str, Any], *, target: str, threads: int
) -> CudaProgram:
    """The CUDA loader. See `tilewright.runtime.native.Loader`."""
    check_seal(data, target)
    return CudaProgram(library, weights, data)
