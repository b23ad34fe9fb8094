"""The device model of the CPU that this process runs on, from what the operating system tells; nothing is measured."""

from __future__ import annotations

from pathlib import Path

from tilewright.device.model import DeviceModel, MemoryLevel

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_DEFAULT_CACHES = {1: 32 << 10, 2: 1 << 20, 3: 16 << 20}
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_ASSUMED_HERTZ = 3.0e9
_ONE_BY_512 = frozenset({"znver4", "cannonlake", "icelake-client", "rocketlake", "tigerlake"})
"""Architectures that begin one multiply-add of 64 bytes in a cycle, where they begin two of 32."""
_DRAM_BYTES_PER_SECOND = 2.0e10  # one thread of a server core reaches about 10 GB/s, a socket many times that


def cpu_flags() -> frozenset[str]:
    """Instruction set extensions of the first CPU, in the operating system's names."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    line = next((x for x in text.splitlines() if x.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def cpu_model(name: str, arch: str, features: frozenset[str]) -> DeviceModel:
    """The device model of a CPU of one core; `DeviceModel.with_units` gives it the threads of a program.

    Args:
        name: what follows `cpu:` in the target string.
        arch: what the code generator calls the CPU.
        features: instruction set extensions (`avx512f`, `avx2`, `fma`, …).
    """
    vector = 64 if "avx512f" in features else 32 if "avx2" in features else 16
    caches = _cache_bytes()
    fmas = 1 if vector == 64 and arch in _ONE_BY_512 else 2
    return DeviceModel(
        name=name,
        kind="cpu",
        arch=arch,
        units=1,
        peak={"fma": _ASSUMED_HERTZ * (vector // 4) * 2 * fmas},
        levels=(
            MemoryLevel("dram", 1 << 40, _DRAM_BYTES_PER_SECOND, 64, shared_by_units=True),
            MemoryLevel("l3", caches[3], 3.0e10, 64, shared_by_units=True),
            MemoryLevel("l2", caches[2], 6.5e10, 64),
            MemoryLevel("l1", caches[1], 2 * vector * _ASSUMED_HERTZ, 64),
        ),
        vector_bytes=vector,
        vector_registers=32 if vector == 64 else 16,
        vector_fmas=fmas,
        launch_seconds=2e-6,
        barrier_seconds=5e-7,
        features=tuple(sorted(features)),
    )


def _cache_bytes() -> dict[int, int]:
    """Bytes of the data caches by level; defaults where the operating system does not tell."""
    found = dict(_DEFAULT_CACHES)
    for folder in sorted(_CACHES.glob("index*")):
        try:
            kind = (folder / "type").read_text(encoding="ascii").strip()
            level = int((folder / "level").read_text(encoding="ascii"))
            size = (folder / "size").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and level in found and size[-1:] in _UNITS:
            found[level] = int(size[:-1]) * _UNITS[size[-1]]
    return found
