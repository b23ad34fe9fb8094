"""Element types: their names in the IR, their NumPy types, and the accumulator each one sums in."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

# isort: split
import ml_dtypes  # after NumPy: its extension would print an interrupt that arrives while it imports NumPy

FLOATS = ("float64", "float32", "float16", "bfloat16")
SIGNED = ("int64", "int32", "int16", "int8")
UNSIGNED = ("uint64", "uint32", "uint16", "uint8")
INTEGERS = SIGNED + UNSIGNED
DTYPES = FLOATS + INTEGERS + ("bool",)
"""Types that expressions compute with."""

NARROW_FLOATS = ("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "float8e8m0", "float4e2m1")
NARROW_INTEGERS = ("int4", "uint4", "int2", "uint2")
NARROW = NARROW_FLOATS + NARROW_INTEGERS
"""Types that are only stored, an element in the low bits of a byte: loaded, selected, and read as uint8 by bitcast."""

STORED = DTYPES + NARROW
"""Types that a value may have."""

_NUMPY: dict[str, np.dtype[Any]] = {name: np.dtype(name) for name in DTYPES if name != "bfloat16"}
_NUMPY["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
_NUMPY |= {
    "float8e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "float8e8m0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "float4e2m1": np.dtype(ml_dtypes.float4_e2m1fn),
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in NARROW_INTEGERS},
}
_NAMES = {dtype: name for name, dtype in _NUMPY.items()}

_BITS = {name: dtype.itemsize * 8 for name, dtype in _NUMPY.items()}


def to_numpy(dtype: str) -> np.dtype[Any]:
    """The NumPy type that stores one element of `dtype` (bfloat16 through ml_dtypes)."""
    return _NUMPY[dtype]


def from_numpy(dtype: np.dtype[Any]) -> str:
    """The IR's name of a NumPy type. Raises KeyError for a type that the IR does not have."""
    return _NAMES[np.dtype(dtype)]


def is_float(dtype: str) -> bool:
    """Whether the type is one of `FLOATS`."""
    return dtype in FLOATS


def is_integer(dtype: str) -> bool:
    """Whether the type is one of `INTEGERS` (bool is not)."""
    return dtype in INTEGERS


def is_narrow(dtype: str) -> bool:
    """Whether the type is one of `NARROW`."""
    return dtype in NARROW


def kind(dtype: str) -> str:
    """`f` for floats, `i` for integers, `b` for bool, `n` for narrow types."""
    return "f" if is_float(dtype) else "b" if dtype == "bool" else "n" if is_narrow(dtype) else "i"


def bits(dtype: str) -> int:
    """Width of the type as it is stored; a bool and a narrow type take 8 bits."""
    return _BITS[dtype]


def size_of(dtype: str) -> int:
    """Bytes of one stored element."""
    return _NUMPY[dtype].itemsize


def accumulator(dtype: str) -> str:
    """The dtype in which sums and products over `dtype` are carried.

    Half types accumulate in float32 and small integers in int32, as tensor cores do; the result is
    rounded once, at the write.
    """
    if dtype in ("float16", "bfloat16"):
        return "float32"
    if dtype in ("int8", "uint8", "int16", "uint16"):
        return "int32"
    return dtype


@cache
def integer_range(dtype: str) -> tuple[int, int]:
    """Smallest and largest value of an integer dtype, a narrow one too (0 and 1 for bool)."""
    if dtype == "bool":
        return 0, 1
    info = ml_dtypes.iinfo(_NUMPY[dtype])  # type: ignore[no-untyped-call]
    return int(info.min), int(info.max)
