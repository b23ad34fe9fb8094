"""Whole CUDA programs on the CPU: the host function that TVM makes, the loader, and graphs that are captured.

Kernels run on the emulator (`emulator.py`), streams and graphs are those of `graphs.cc`. What it proves: which nodes
come where and behind which others, what the device decides, what happens where a call fails. What it does not: whether
CUDA takes such graphs.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import tvm_ffi

from backends.tests.cuda_on_cpu.emulator import HERE, _compiled, _flags, _headers, _host_source
from tilewright.compiler import build_program
from tilewright.config.binding import Settings
from tilewright.errors import InternalError
from tilewright.ir.program import Program
from tilewright_backends import load_cuda
from tilewright_backends.build.cuda import builder, graph
from tilewright_backends.build.cuda.compile import Compiled
from tilewright_backends.build.cuda.source import DeviceKernel

_CALLS = (
    "cudaMemcpyAsync",
    "cudaStreamSynchronize",
    "cudaStreamCreateWithFlags",
    "cudaStreamDestroy",
    "cudaStreamGetCaptureInfo",
    "cudaStreamUpdateCaptureDependencies",
    "cudaStreamBeginCaptureToGraph",
    "cudaStreamEndCapture",
    "cudaGraphConditionalHandleCreate",
    "cudaGraphAddNode",
)
_LAUNCHED = """
#include <array>
void emu_launch(std::function<void()> work);
extern "C" void emu_set(unsigned long long handle, unsigned value);
static const bool emu_ready = (emu_set_conditional = emu_set, true);
struct emu_any { int32_t type; uint32_t unused; union { int64_t number; void* pointer; }; };
"""


@functools.cache
def runtime() -> ctypes.CDLL:
    """`graphs.cc`. Its functions have names of their own, so a real runtime library may be there too."""
    folder = Path(tempfile.mkdtemp(prefix="tilewright-graphs-"))
    try:
        library = folder / "graphs.so"
        _compiled(["-O1", "-std=c++17", "-fPIC", "-shared"], HERE / "graphs.cc", library)
        return ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    finally:
        shutil.rmtree(folder)


class Runtime:
    """In place of `load_cuda.CudaRuntime`."""

    def __init__(self) -> None:
        self._library = runtime()

    def __call__(self, function: str, *args: Any) -> None:
        status = getattr(self._library, f"emu_{function}")(*args)
        if status:
            raise self.error(function, status)

    def error(self, function: str, status: int) -> InternalError:
        return InternalError(f"{function}: emulated (CUDA error {status}).")

    def allocate(self, size: int, fill: int = 0xFF) -> int:
        libc = ctypes.CDLL(None)
        libc.aligned_alloc.restype = ctypes.c_void_p
        size = -(-max(size, 256) // 256) * 256
        address = libc.aligned_alloc(ctypes.c_size_t(256), ctypes.c_size_t(size))
        ctypes.memset(address, fill, size)
        return int(address)

    def multiprocessors(self) -> int:
        return 132

    def compute_capability(self) -> tuple[int, int]:
        return 9, 0


@attrs.define
class _Taken:
    """What the builder compiles: CUDA C++ and the kernels in it, module by module."""

    sources: list[str] = attrs.field(factory=list)
    kernels: list[Sequence[DeviceKernel]] = attrs.field(factory=list)

    def compile_source(self, source: str, arch: str, workdir: Path, name: str = "kernels") -> Compiled:
        self.sources.append(source)
        return Compiled(b"", {})

    def cuda_module(self, code: bytes, kernels: Sequence[DeviceKernel], form: str = "cubin") -> bytes:
        self.kernels.append(kernels)
        return b""


@contextmanager
def on_the_cpu(program: Program, settings: Settings) -> Iterator[load_cuda.CudaProgram]:
    """A loaded CUDA program whose kernels and graphs run here."""
    taken, link, packed = _Taken(), builder.link, builder.packed_modules
    renamed = "".join(f"#define {x} emu_{x}\n" for x in _CALLS)
    runtime()
    folder = Path(tempfile.mkdtemp(prefix="tilewright-graphs-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "compile_source", taken.compile_source)
        patch.setattr(graph, "compile_source", taken.compile_source)
        patch.setattr(builder, "cuda_module", taken.cuda_module)
        patch.setattr(builder, "packed_modules", lambda modules: packed([]))
        patch.setattr(builder, "link", lambda a, b, path, at, helper="": link(a, b, path, at, renamed + helper))
        patch.setattr(load_cuda, "CudaRuntime", Runtime)
        patch.setattr(load_cuda, "check_resident", lambda *given: None)
        patch.setattr(load_cuda.tvm_ffi, "get_global_func", _global_function)
        try:
            output = build_program(program, settings, folder)
            found = zip(taken.sources, taken.kernels, strict=True)
            modules = [_kernels(x, y, folder / f"kernels{n}.so") for n, (x, y) in enumerate(found)]

            def load(path: Path, entry: str) -> tuple[Any, Any]:
                module = tvm_ffi.load_module(str(path.resolve()))
                for imported in modules:
                    module.import_module(imported)
                return module, module[entry]

            patch.setattr(load_cuda, "load_library", load)
            weights = {w.name: np.ascontiguousarray(w.load()) for w in output.weights}
            loaded = load_cuda.CudaProgram(output.library, weights, output.data)
        finally:
            shutil.rmtree(folder)
        yield loaded
        loaded.close()
        _set_stream(2, 0, ctypes.c_void_p())


_TVM_FUNCTION = tvm_ffi.get_global_func


def _global_function(name: str) -> Any:
    """TVM's own way to set the stream asks for a device."""
    return _set_stream if name == "runtime.TVMSetStream" else _TVM_FUNCTION(name)


def _set_stream(device_type: int, device_id: int, stream: ctypes.c_void_p) -> None:
    library = ctypes.CDLL(str(tvm_ffi.libinfo.find_libtvm_ffi()))
    assert library.TVMFFIEnvSetStream(device_type, device_id, stream, None) == 0


def _kernels(source: str, kernels: Sequence[DeviceKernel], library: Path) -> Any:
    """A module with a function for each kernel, which launches it on the current stream."""
    path = library.with_suffix(".cc")
    parts = [_host_source(source, kernels, "emulator.h"), _LAUNCHED]
    for kernel in kernels:
        count = len(kernel.params)
        assert not kernel.maps
        run = f"run_{kernel.name}(p.data(), n.data(), blocks);"
        held = [f"std::array<void*, {count + 1}> p{{}}; std::array<int64_t, {kernel.numbers + 1}> n{{}};"]
        held += [f"for (int i = 0; i < {count}; ++i) p[i] = a[i].pointer;"]
        held += [f"for (int i = 0; i < {kernel.numbers}; ++i) n[i] = a[{count} + i].number;"]
        held += [f"const int blocks = a[{count + kernel.numbers}].number;"]
        if kernel.words:
            held, run = (
                [f"const auto w = *({kernel.name}_words*)a[0].pointer;"],
                f"auto x = w; run_{kernel.name}(&x, 0);",
            )
        parts.append(
            f'extern "C" int __tvm_ffi_{kernel.name}(void*, const emu_any* a, int32_t, emu_any* result) {{\n'
            f"  {' '.join(held)}\n  emu_launch([=]() mutable {{ {run} }});\n  result->type = 0;\n  return 0;\n}}"
        )
    path.write_text("\n".join(parts), encoding="utf-8")
    _compiled([f"-I{_headers(32)}", f"-I{HERE}", *_flags(32), "-shared"], path, library)
    return tvm_ffi.load_module(str(library))
