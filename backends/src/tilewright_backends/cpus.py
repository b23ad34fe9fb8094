"""Target names and device models of CPUs."""

from __future__ import annotations

import difflib

from tilewright.device import DeviceModel, cpu_flags, cpu_model
from tilewright.errors import InputError

_NAMES = """
x86-64 x86-64-v2 x86-64-v3 x86-64-v4 nehalem westmere sandybridge ivybridge haswell broadwell skylake skylake-avx512
cascadelake cooperlake cannonlake icelake-client icelake-server tigerlake rocketlake alderlake raptorlake meteorlake
arrowlake lunarlake pantherlake sapphirerapids emeraldrapids graniterapids sierraforest grandridge clearwaterforest
diamondrapids goldmont tremont gracemont knl barcelona btver2 bdver4 znver1 znver2 znver3 znver4 znver5
"""
NAMES = tuple(_NAMES.split())
"""LLVM's names of the 64-bit x86 CPUs that a target string may name."""


def resolve(device: str) -> str:
    """The definite name for what follows `cpu:`; the machine's own when that is empty.

    Raises:
        InputError: an unknown name.
    """
    if not device:
        from tilewright_backends.build.llvm import host_cpu

        found = host_cpu()
        return found if found in NAMES else "x86-64-v3" if "avx2" in cpu_flags() else "x86-64"
    if device in NAMES:
        return device
    near = difflib.get_close_matches(device, NAMES, 1)
    remedy = f"Did you mean cpu:{near[0]}?" if near else "Use `cpu` for this machine's."
    raise InputError(f"There is no CPU {device!r}; LLVM's names count, such as znver4 or skylake-avx512.", remedy)


def model(name: str) -> DeviceModel:
    """The device model of a CPU of one core. Caches are those of this machine."""
    from tilewright_backends.build.llvm import cpu_features

    return cpu_model(name, name, cpu_features(name))
