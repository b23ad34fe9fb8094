"""Kernels as TIR device functions, their LLVM code, and object code from that.

TVM's generator makes LLVM code with the device libraries linked in and optimises it. What it says of a kernel for lack
of a device is put right in the text: how many threads a block has, and what the target is called. Then the same LLVM
makes the object code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import tvm
import tvm_ffi
from tvm.tirx import transform

from tilewright.errors import InternalError
from tilewright_backends.build.cuda.source import DeviceKernel, KernelShell
from tilewright_backends.build.rocm.tools import device_libraries
from tilewright_backends.emit.rocm.body import RocmBody
from tilewright_backends.emit.rocm.functions import source
from tilewright_backends.lower.types import Prim

TRIPLE = "amdgcn-amd-amdhsa"
_TVM_TRIPLE = "amdgcn-amd-amdhsa-hcc"
_GROUP_SIZE = re.compile(r' ?"amdgpu-flat-work-group-size"="[\d,]+"')
_FLAGS = re.compile(r"^!llvm\.module\.flags = !\{(.*)\}$", re.MULTILINE)
_FLAG = 1_000_000
"""Number of the metadata node that names the target; TVM's modules have far fewer."""


def warp_of(arch: str) -> int:
    """Lanes of a wave: 64 on gfx9, 32 on what came later."""
    return 64 if arch.startswith("gfx9") else 32


def rocm_target(arch: str) -> tvm.target.Target:
    """TVM's target for one architecture."""
    return tvm.target.Target(
        {
            "kind": "rocm",
            "mcpu": arch,
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 65536,
            "thread_warp_size": warp_of(arch),
        }
    )


def shell_for(arch: str, shared: Prim | None = None) -> type[KernelShell]:
    """Shells of kernels for an architecture.

    Args:
        shared: words of 16 bytes in shared memory that members of a kernel have, one instead of the other.
    """

    class RocmShell(KernelShell):
        def new_body(self, threads: int, tasks: int) -> RocmBody:
            return RocmBody(threads, tasks, arch, warp_of(arch), shared)

        def target(self, arch: str) -> tvm.target.Target:
            return rocm_target(arch)

    return RocmShell


def unrolled(kernels: Sequence[DeviceKernel]) -> tvm.IRModule:
    """The kernels with the loops written out that say so, for LLVM may leave them and registers then become memory."""
    if len({k.name for k in kernels}) != len(kernels):
        raise InternalError("two kernels have one symbol.")
    module = tvm.IRModule({k.name: k.function for k in kernels})
    with tvm.ir.transform.PassContext(config={"tirx.UnrollLoop": {"explicit_unroll": True, "auto_max_step": 0}}):
        return transform.UnrollLoop()(module)


def llvm_source(kernels: Sequence[DeviceKernel], arch: str, workdir: Path) -> str:
    """Optimised LLVM code of the kernels, in which each has the number of threads that it is launched with.

    Raises:
        InputError: the device libraries are missing.
    """
    functions = workdir / "functions.ll"
    functions.write_text(source(arch), encoding="utf-8")
    # The libraries come first: the linker takes from the second file what the first one lacks.
    files = [str(device_libraries()), str(functions)]
    tvm_ffi.register_global_func("tvm_callback_rocm_bitcode_path", lambda: tvm.runtime.convert(files), override=True)
    tvm_ffi.register_global_func("tvm_callback_rocm_link", lambda _: bytearray(b"not linked"), override=True)
    target = rocm_target(arch)
    with target:
        built = tvm.get_global_func("target.build.rocm")(unrolled(kernels), target)
    text = _GROUP_SIZE.sub("", str(built.inspect_source("llvm"))).replace(_TVM_TRIPLE, TRIPLE)
    if "addrspacecast" in text:
        raise InternalError("an address of memory on chip became one of global memory, where nothing of it is.")
    for kernel in kernels:
        size = f'"amdgpu-flat-work-group-size"="{kernel.block},{kernel.block}"'
        definition = re.compile(rf"^(define .*amdgpu_kernel .*@{kernel.name}\(.*) \{{$", re.MULTILINE)
        text, found = definition.subn(rf"\1 {size} {{", text)
        if found != 1:
            raise InternalError(f"the LLVM code has {found} definitions of kernel {kernel.name}.")
    return _with_target(text, arch)


def _with_target(text: str, arch: str) -> str:
    """The module says what it is for, so that reading it back gives code for that."""
    described = json.dumps({"kind": "llvm", "mtriple": TRIPLE, "mcpu": arch}).replace('"', "\\22")
    text, found = _FLAGS.subn(rf"!llvm.module.flags = !{{\1, !{_FLAG}}}", text)
    if found != 1:
        raise InternalError("the LLVM code does not end as the pinned TVM writes it.")
    return f'{text}\n!{_FLAG} = !{{i32 2, !"tvm_target", !"{described}"}}\n'


def object_code(text: str, workdir: Path) -> Path:
    """A relocatable object file from LLVM code."""
    code, path = workdir / "kernels.ll", workdir / "kernels.o"
    code.write_text(text, encoding="utf-8")
    tvm_ffi.get_global_func("ffi.Module.load_from_file.ll")(str(code), "ll").write_to_file(str(path), "o")
    return path
