"""Which instructions a program was compiled to use, and whether this machine has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from tilewright.errors import InputError

FLAGS: Mapping[str, str] = {
    **{
        x: x
        for x in ("avx", "avx2", "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512ifma", "avx512vbmi", "avx512vl")
    },
    **{x: x for x in ("bmi2", "f16c", "fma", "gfni", "movbe", "popcnt", "vaes", "vpclmulqdq", "sse2", "ssse3")},
    **{f"amx-{x}": f"amx_{x}" for x in ("bf16", "fp16", "int8", "tile")},
    **{f"avx512{x}": f"avx512_{x}" for x in ("bf16", "bitalg", "fp16", "vbmi2", "vnni", "vpopcntdq")},
    "avxvnni": "avx_vnni",
    "bmi": "bmi1",
    "lzcnt": "abm",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
}
"""Linux's flag for each of LLVM's features that generated code may use."""


def needed(features: Collection[str]) -> list[str]:
    """What a loader must find, of LLVM's features of a CPU."""
    return sorted(x for x in features if x in FLAGS)


def require(features: Collection[str], target: str) -> None:
    """Raises InputError, naming what is missing, unless this machine has the features."""
    flags = _flags()
    missing = [x for x in features if flags and FLAGS.get(x, x) not in flags]
    if missing:
        raise InputError(
            f"This machine cannot run a program for {target}: it lacks {', '.join(missing)}.",
            "Compile for `cpu` on this machine, or run the program on a machine of its target.",
        )


def _flags() -> frozenset[str]:
    """The flags of this machine's processor; empty when they cannot be told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(x.partition(":")[2].split()) for x in lines if x.startswith("flags")), frozenset())
