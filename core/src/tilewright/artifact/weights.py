"""Weights as a safetensors section: written one tensor at a time, read by mapping the file.

Tensors begin at multiples of 64 bytes; the format allows no holes, so small byte tensors fill them.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from attrs import frozen

from tilewright.artifact.archive import ALIGNMENT, Member, Sink
from tilewright.artifact.errors import ArtifactError, damaged
from tilewright.ir import dtypes
from tilewright.runtime.native import Array, Weight

_LENGTH = struct.Struct("<Q")
_MAX_HEADER = 64 << 20
_FILLER = "~"
_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
_NARROW = "U8"  # a byte each; the program knows what they mean
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


@frozen
class _Plan:
    header: bytes
    gaps: tuple[int, ...]
    size: int


def plan_weights(weights: Sequence[Weight]) -> tuple[int, Callable[[Sink], None]]:
    """Bytes of the section that holds `weights`, and the function that writes them, loading one at a time."""
    plan = _plan(weights)

    def fill(sink: Sink) -> None:
        sink.write(_LENGTH.pack(len(plan.header)))
        sink.write(plan.header)
        for weight, gap in zip(weights, plan.gaps, strict=True):
            sink.write(bytes(gap))
            sink.write(_bytes(weight))

    return plan.size, fill


def _plan(weights: Sequence[Weight]) -> _Plan:
    entries: dict[str, object] = {}
    gaps: list[int] = []
    end = 0
    for weight in weights:
        if weight.name in entries or weight.name.startswith(_FILLER):
            raise ValueError(f"weight {weight.name!r} is there twice, or its name begins with {_FILLER!r}")
        gap = -end % ALIGNMENT
        gaps.append(gap)
        if gap:
            entries[f"{_FILLER}{len(gaps)}"] = _entry("uint8", (gap,), end, end + gap)
        begin = end + gap
        end = begin + dtypes.size_of(weight.dtype) * int(np.prod(weight.shape, dtype=np.int64))
        entries[weight.name] = _entry(weight.dtype, weight.shape, begin, end)
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(_LENGTH.size + len(header)) % ALIGNMENT)
    return _Plan(header, tuple(gaps), _LENGTH.size + len(header) + end)


def _entry(dtype: str, shape: tuple[int, ...], begin: int, end: int) -> dict[str, object]:
    return {"dtype": _CODES.get(dtype, _NARROW), "shape": list(shape), "data_offsets": [begin, end]}


def _bytes(weight: Weight) -> memoryview:
    array = np.ascontiguousarray(weight.load())
    # ascontiguousarray makes a scalar one-dimensional, so the shape is compared by extents
    if array.dtype != dtypes.to_numpy(weight.dtype) or array.size != int(np.prod(weight.shape)):
        raise ValueError(
            f"weight {weight.name!r} was announced as {weight.dtype}{list(weight.shape)} and is "
            f"{array.dtype}{list(array.shape)}"
        )
    return array.reshape(-1).view(np.uint8).data


def map_weights(path: Path, mapped: mmap.mmap, member: Member) -> Mapping[str, Array]:
    """Read-only views of the tensors of a section; they keep the mapping alive and copy nothing.

    Raises:
        ArtifactError: the section is not safetensors, or a tensor lies outside it.
    """
    if member.size < _LENGTH.size:
        raise damaged(path, "its weights have no header")
    (length,) = _LENGTH.unpack_from(mapped, member.offset)
    if length > min(_MAX_HEADER, member.size - _LENGTH.size):
        raise damaged(path, "the header of its weights is too long")
    begin = member.offset + _LENGTH.size
    try:
        header = json.loads(mapped[begin : begin + length])
        tensors = {
            str(name): _view(mapped, begin + length, member, entry)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, f"the header of its weights is wrong ({error})") from error
    except ArtifactError as error:
        raise damaged(path, error.message) from error
    return {name: array for name, array in tensors.items() if not name.startswith(_FILLER)}


def _view(mapped: mmap.mmap, base: int, member: Member, entry: Mapping[str, object]) -> Array:
    dtype = dtypes.to_numpy(_DTYPES[str(entry["dtype"])])
    shape = [int(extent) for extent in entry["shape"]]  # type: ignore[attr-defined]
    first, last = (int(offset) for offset in entry["data_offsets"])  # type: ignore[attr-defined]
    count = 1
    for extent in shape:
        count *= extent
    if min(shape, default=0) < 0 or first < 0 or last - first != count * dtype.itemsize:
        raise ValueError("a tensor's extents do not fit its bytes")
    if base + last > member.offset + member.size:
        raise ValueError("a tensor reaches past the section's end")
    return np.frombuffer(mapped, dtype, count, base + first).reshape(shape)
