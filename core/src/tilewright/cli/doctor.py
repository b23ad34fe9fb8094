"""`tilewright doctor`: is the installation sound? From metadata and the file system; no plugin is
imported.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import platform
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import click
from attrs import asdict, frozen

from tilewright.cache import Cache
from tilewright.cli.base import Command
from tilewright.cli.output import Output, table
from tilewright.errors import InputError
from tilewright.plugins.discovery import discover
from tilewright.plugins.identity import distribution_version
from tilewright.threads import thread_count
from tilewright.workers import run_tool


@frozen
class Check:
    """One finding: what was looked at, what was found, and whether that is `ok`, `optional` (missing) or
    `bad`.

    Args:
        step: "compile" or "run" where only that needs it for some targets, else "".
    """

    what: str
    found: str
    state: str
    remedy: str = ""
    step: str = ""


@click.command("doctor", cls=Command)
@click.option("--target", metavar="T", help="What compiling for it needs (cpu, cuda, rocm) must be there too.")
def command(output: Output, target: str | None) -> int:
    """Check the installation; exit with 2 if something is wrong. No plugin is imported."""
    checks = findings((target or "").partition(":")[0])
    output.result(
        [asdict(check) for check in checks],
        table(["check", "state", "found", "remedy"], [[c.what, c.state, c.found, c.remedy] for c in checks]),
    )
    return 2 if any(check.state == "bad" for check in checks) else 0


def findings(kind: str) -> list[Check]:
    """Everything that is looked at. What compiling for targets of this kind needs must be there."""
    return [*_machine(), *_distributions(), *_cuda(kind == "cuda"), *_rocm(kind == "rocm"), _cache(), *_plugins()]


def require(kind: str, *steps: str) -> None:
    """Raises InputError where something is missing that steps ("compile", "run") of a kind of target need."""
    of_kind = {"cuda": _cuda, "rocm": _rocm}
    checks = of_kind[kind](True) if kind in of_kind else []
    missing = [x for x in checks if x.step in steps and x.state != "ok"]
    if missing:
        raise InputError(
            f"This machine cannot {' and '.join(steps)} programs for {kind}, which lacks: "
            + ", ".join(f"{x.what} ({x.found})" for x in missing)
            + ".",
            "; ".join(f"{x.what}: {x.remedy}" for x in missing),
        )


def _machine() -> list[Check]:
    supported = (3, 11) <= sys.version_info[:2] < (3, 14)
    system = f"{platform.system()} {platform.machine()}"
    return [
        Check(
            "Python",
            platform.python_version(),
            "ok" if supported else "bad",
            "" if supported else "Use Python 3.11, 3.12 or 3.13.",
        ),
        Check("system", system, "ok" if system == "Linux x86_64" else "bad"),
        _threads(),
    ]


def _threads() -> Check:
    try:
        return Check("threads", str(thread_count()), "ok")
    except InputError as error:
        return Check("threads", error.message, "bad", error.remedy)


def _distributions() -> list[Check]:
    core = Check("tilewright-core", distribution_version("tilewright-core"), "ok")
    reference = distribution_version("onnxruntime")
    checks = [
        core,
        Check("onnx", distribution_version("onnx"), "ok"),
        Check(
            "onnxruntime",
            reference,
            "optional" if reference == "not installed" else "ok",
            "pip install onnxruntime, to compare with it" if reference == "not installed" else "",
        ),
    ]
    try:
        needed = requires("tilewright-backends") or []
    except PackageNotFoundError:
        return [*checks, Check("tilewright-backends", "not installed", "bad", "pip install tilewright-backends")]
    checks.append(Check("tilewright-backends", distribution_version("tilewright-backends"), "ok"))
    for requirement in needed:
        pin = re.fullmatch(r"(apache-tvm[a-z-]*)==(\S+)", requirement)
        if pin:
            name, wanted = pin.groups()
            found = distribution_version(name)
            state = "ok" if found == wanted else "bad"
            checks.append(Check(name, found, state, "" if state == "ok" else f"pip install {name}=={wanted}"))
    return checks


def _cuda(needed: bool) -> list[Check]:
    driver = Path("/proc/driver/nvidia/version")
    nvcc = _nvcc()
    nvrtc = distribution_version("nvidia-cuda-nvrtc")
    return [
        Check(
            "NVIDIA driver",
            driver.read_text(errors="replace").splitlines()[0] if driver.exists() else "none",
            "ok" if driver.exists() else "optional",
            "" if driver.exists() else "needed to run CUDA programs, not to compile them",
            "run",
        ),
        Check(
            "CUDA compiler",
            nvcc or (f"NVRTC {nvrtc}" if nvrtc != "not installed" else "none"),
            "ok" if nvcc or nvrtc != "not installed" else _missing(needed),
            "" if nvcc or nvrtc != "not installed" else "pip install 'tilewright-backends[cuda]'",
            "compile",
        ),
    ]


def _nvcc() -> str | None:
    """Where code generation looks for it too, in this order."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    named = Path(home, "bin", "nvcc") if home else None
    if named is not None and named.is_file():
        return str(named)
    usual = Path("/usr/local/cuda/bin/nvcc")
    return shutil.which("nvcc") or (str(usual) if usual.is_file() else None)


def _missing(needed: bool) -> str:
    """The state of what is not there."""
    return "bad" if needed else "optional"


_LLVM = 22
"""The major version of LLVM in the pinned TVM."""


def _rocm(needed: bool) -> list[Check]:
    linker, libraries = _lld(), _device_libraries()
    driver, hip = Path("/dev/kfd"), ctypes.util.find_library("amdhip64")
    runtime = _tvm_library("libtvm_runtime_rocm.so")
    to_run = "needed to run ROCm programs, not to compile them: "
    return [
        Check(
            "ROCm linker",
            linker or "none",
            "ok" if linker else _missing(needed),
            "" if linker else f"as root on Debian: apt-get install lld-{_LLVM}; or set ROCM_PATH to a ROCm 7 with LLVM",
            "compile",
        ),
        Check(
            "ROCm device libraries",
            libraries or "none",
            "ok" if libraries else _missing(needed),
            "" if libraries else "as root on Debian: apt-get install rocm-device-libs; or set ROCM_PATH",
            "compile",
        ),
        Check(
            "AMD driver",
            str(driver) if driver.exists() else "none",
            "ok" if driver.exists() else "optional",
            "" if driver.exists() else f"{to_run}AMD's kernel driver",
            "run",
        ),
        Check(
            "HIP runtime",
            hip or "none",
            "ok" if hip else "optional",
            "" if hip else f"{to_run}libamdhip64.so of ROCm 6 or newer",
            "run",
        ),
        Check(
            "TVM runtime for ROCm",
            runtime or "none",
            "ok" if runtime else "optional",
            "" if runtime else f"{to_run}TVM of the pinned version built with USE_ROCM",
            "run",
        ),
    ]


def _lld() -> str | None:
    """A linker that knows the object files of TVM's LLVM, where code generation looks for it too."""
    root = os.environ.get("ROCM_PATH", "/opt/rocm")
    for name in (f"ld.lld-{_LLVM}", f"{root}/llvm/bin/ld.lld", "ld.lld"):
        path = shutil.which(name)
        if path is None:
            continue
        version = re.search(r"LLD (\d+)\.", run_tool([path, "--version"]).stdout)
        if version is not None and int(version[1]) >= _LLVM:
            return path
    return None


def _device_libraries() -> str | None:
    """Where code generation looks for them too, in this order."""
    for root in (os.environ.get("ROCM_PATH"), "/opt/rocm", "/usr/lib/x86_64-linux-gnu", "/usr"):
        path = Path(root, "amdgcn", "bitcode", "ocml.bc") if root else None
        if path is not None and path.is_file():
            return str(path)
    return None


def _tvm_library(name: str) -> str | None:
    """One of TVM's libraries, without importing TVM."""
    found = importlib.util.find_spec("tvm")
    path = Path(found.origin).parent / "lib" / name if found is not None and found.origin else None
    return str(path) if path is not None and path.is_file() else None


def _cache() -> Check:
    try:
        return Check("cache", str(Cache().folder), "ok")
    except InputError as error:
        return Check("cache", error.message, "bad", error.remedy)


def _plugins() -> list[Check]:
    found = discover()
    return [
        *(Check(f"plugin {p.name}", f"{p.distribution} {p.version}", "ok") for p in found.plugins),
        *(
            Check(f"plugin {f.plugin.name}", f.cause, "bad", f"Reinstall {f.plugin.distribution}.")
            for f in found.failures
        ),
    ]
