"""CUDA C++ to machine code by nvcc, or by NVRTC where no toolkit is installed.

Also what the assembler says about each kernel.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import attrs

from tilewright.errors import InputError, InternalError
from tilewright.workers import run_tool

_WHEELS = "nvidia-cuda-nvrtc, nvidia-cuda-runtime and nvidia-cuda-crt"


@attrs.frozen
class KernelFacts:
    """What the assembler reports of one kernel.

    Args:
        registers: per thread.
        spill_bytes: stores and loads of registers that did not fit, per thread; also those of functions that it calls.
        stack_bytes: local memory per thread, arrays with run-time indices included.
        static_shared_bytes: shared memory besides the dynamic allocation.
    """

    registers: int
    spill_bytes: int
    stack_bytes: int
    static_shared_bytes: int


@attrs.frozen
class Compiled:
    """Machine code for one architecture and the facts about its kernels by symbol."""

    cubin: bytes = attrs.field(repr=False)
    facts: Mapping[str, KernelFacts]


def find_nvcc() -> str | None:
    """Path of nvcc: in CUDA_HOME, on the PATH or in /usr/local/cuda."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [Path(home) / "bin" / "nvcc"] if home else []
    on_path = shutil.which("nvcc")
    candidates += [Path(on_path)] if on_path else []
    candidates.append(Path("/usr/local/cuda/bin/nvcc"))
    return next((str(x) for x in candidates if x.is_file()), None)


def compiler_version() -> str:
    """Name and version of the compiler that `compile_source` uses; part of cache keys.

    Raises:
        InputError: there is neither nvcc nor NVRTC.
    """
    nvcc = find_nvcc()
    if nvcc is not None:
        done = run_tool([nvcc, "--version"])
        found = re.search(r"V(\d+\.\d+\.\d+)", done.stdout)
        return f"nvcc {found.group(1) if found else 'unknown'}"
    major, minor = ctypes.c_int(), ctypes.c_int()
    _nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"nvrtc {major.value}.{minor.value}"


def compile_source(source: str, arch: str, workdir: Path, name: str = "kernels") -> Compiled:
    """Machine code of CUDA C++.

    Args:
        arch: `sm_80`, `sm_90a`, …
        workdir: folder for intermediate files.

    Raises:
        InputError: there is no CUDA compiler.
        InternalError: the compiler refuses the source.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        return _compile_nvrtc(source, arch)
    path = workdir / f"{name}.cu"
    path.write_text(source, encoding="utf-8")
    cubin = workdir / f"{name}.cubin"
    number = arch.removeprefix("sm_")
    command = [nvcc, "-cubin", "-O3", "-std=c++17", "-gencode", f"arch=compute_{number},code=sm_{number}"]
    command += ["-Xptxas", "-v", "-diag-suppress", "177,550", "-o", str(cubin), str(path)]
    done = run_tool(command)
    if done.returncode:
        raise InternalError(f"nvcc refuses the generated code for {arch}: {_tail(done.stderr)}")
    return Compiled(cubin.read_bytes(), parse_facts(done.stderr))


def parse_facts(log: str) -> dict[str, KernelFacts]:
    """The facts in the output of the assembler's `-v`, by kernel."""
    found: dict[str, KernelFacts] = {}
    blocks = re.split(r"Compiling entry function '", log)
    for block in blocks[1:]:
        symbol = block.split("'", 1)[0]
        # Of a persistent kernel the functions that it calls follow.
        registers, stores, loads, stack, shared = (
            [int(x) for x in re.findall(pattern, block)]
            for pattern in (
                r"Used (\d+) registers",
                r"(\d+) bytes spill stores",
                r"(\d+) bytes spill loads",
                r"(\d+) bytes stack frame",
                r"(\d+) bytes smem",
            )
        )
        frames = sum(stack[:1]) + max(stack[1:], default=0)
        found[symbol] = KernelFacts(sum(registers[:1]), sum(stores) + sum(loads), frames, sum(shared[:1]))
    return found


def _tail(log: str) -> str:
    return "\n".join(line for line in log.splitlines() if "error" in line.lower())[:2000] or log[-2000:]


def _wheel_file(pattern: str) -> Path | None:
    """A file of NVIDIA's wheels, which share the namespace package `nvidia`."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        for path in sorted(Path(folder).glob(pattern)):
            return path
    return None


def nvrtc_library() -> Path | None:
    """The NVRTC library of NVIDIA's wheels."""
    return _wheel_file("*/lib/libnvrtc.so.1*")


def _nvrtc() -> ctypes.CDLL:
    library = nvrtc_library()
    try:
        for helper in sorted(library.parent.glob("libnvrtc-builtins.so.*")) if library else ():
            ctypes.CDLL(str(helper), ctypes.RTLD_GLOBAL)  # NVRTC looks for it by name only
        return ctypes.CDLL(str(library) if library else "libnvrtc.so.13")
    except OSError as error:
        raise InputError(
            "Generating code for CUDA needs nvcc or NVRTC, and neither was found.",
            f"Install a CUDA 13 toolkit, or the wheels with `pip install 'tilewright-backends[cuda]'` ({_WHEELS}).",
        ) from error


def _compile_nvrtc(source: str, arch: str) -> Compiled:
    library = _nvrtc()
    headers = _wheel_file("*/include/cuda_fp16.h")
    if headers is None:
        raise InputError(
            "NVRTC was found, but not CUDA's headers (cuda_fp16.h).",
            f"Install the wheels with `pip install 'tilewright-backends[cuda]'` ({_WHEELS}).",
        )
    options = [f"--gpu-architecture={arch}", "--std=c++17", "--device-int128", f"-I{headers.parent}"]
    options += ["--ptxas-options=-v", "--diag-suppress=177,550"]
    program = ctypes.c_void_p()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None))
    try:
        given = (ctypes.c_char_p * len(options))(*(x.encode() for x in options))
        status = library.nvrtcCompileProgram(program, len(options), given)
        log = _nvrtc_bytes(library, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if status:
            raise InternalError(f"NVRTC refuses the generated code for {arch}: {_tail(log)}")
        return Compiled(_nvrtc_bytes(library, program, "CUBIN"), parse_facts(log))
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _nvrtc_bytes(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    data = ctypes.create_string_buffer(max(size.value, 1))
    _check(library, getattr(library, f"nvrtcGet{what}")(program, data))
    return data.raw[: size.value]


def _check(library: ctypes.CDLL, status: int) -> None:
    if status:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise InternalError(f"NVRTC: {library.nvrtcGetErrorString(status).decode()}.")
