"""What code for ROCm needs beside TVM: the linker of LLVM and AMD's device libraries. No TVM is imported here."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tilewright.errors import InputError, InternalError
from tilewright.workers import run_tool

LLVM = 22
"""The major version of LLVM in the pinned TVM; an older linker does not know its object files."""
_ROOTS = ("/opt/rocm", "/usr/lib/x86_64-linux-gnu", "/usr")
HOW = f"On Debian: apt install lld-{LLVM} rocm-device-libs. With ROCm installed elsewhere, set ROCM_PATH to its folder."


def find_linker() -> str | None:
    """Path of a linker that is new enough: `ld.lld-22`, ROCm's own or `ld.lld`; None when there is none."""
    root = os.environ.get("ROCM_PATH", "/opt/rocm")
    for name in (f"ld.lld-{LLVM}", f"{root}/llvm/bin/ld.lld", "ld.lld"):
        path = shutil.which(name)
        if path and _major(path) >= LLVM:
            return path
    return None


def _major(path: str) -> int:
    found = re.search(r"LLD (\d+)\.", run_tool([path, "--version"]).stdout)
    return int(found.group(1)) if found else 0


def find_device_libraries() -> Path | None:
    """The bitcode of elementary functions, `ocml.bc`: in ROCM_PATH or where ROCm and Debian put it."""
    for root in (os.environ.get("ROCM_PATH"), *_ROOTS):
        path = Path(root, "amdgcn", "bitcode", "ocml.bc") if root else None
        if path is not None and path.is_file():
            return path
    return None


def device_libraries() -> Path:
    """The same. Raises InputError when they are missing."""
    found = find_device_libraries()
    if found is None:
        raise InputError("Generating code for ROCm needs AMD's device libraries (ocml.bc), which were not found.", HOW)
    return found


def linker() -> str:
    """The linker. Raises InputError when there is none."""
    found = find_linker()
    if found is None:
        needed = f"LLVM's linker (ld.lld {LLVM} or newer)"
        raise InputError(f"Generating code for ROCm needs {needed}, which was not found.", HOW)
    return found


def link(objects: Path, workdir: Path) -> bytes:
    """A code object from a relocatable object file; nothing may be undefined in it."""
    path = workdir / "kernels.hsaco"
    done = run_tool([linker(), "--no-undefined", "-shared", str(objects), "-o", str(path)])
    if done.returncode:
        raise InternalError(f"ld.lld refuses the generated code: {done.stderr.strip()[-2000:]}")
    return path.read_bytes()
