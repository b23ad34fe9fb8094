"""Weights as a safetensors section: written one tensor at a time, read by mapping the file.

Tensors begin at multiples of 64 bytes; the format allows no holes, so small byte tensors fill them.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from attrs import field, frozen
from attrs.validators import deep_iterable, ge, in_, le, max_len

from tilewright.artifact.archive import ALIGNMENT, Member, Sink
from tilewright.artifact.errors import damaged
from tilewright.config.structure import ConfigError, structure
from tilewright.ir import dtypes
from tilewright.runtime.native import Array, Weight

_LENGTH = struct.Struct("<Q")
_MAX_HEADER = 64 << 20
_MAX_EXTENT = 1 << 47
_MAX_RANK = 64
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


def _offsets(entry: _Entry, attribute: object, offsets: tuple[int, ...]) -> None:
    if len(offsets) != 2 or not 0 <= offsets[0] <= offsets[1]:
        raise ValueError(f"a tensor's bytes have a begin and an end, not {list(offsets)}")
    if offsets[1] - offsets[0] != math.prod(entry.shape) * dtypes.size_of(_DTYPES[entry.dtype]):
        raise ValueError("a tensor's extents do not fit its bytes")


@frozen
class _Entry:
    """What the header says about one tensor."""

    dtype: str = field(validator=in_(tuple(_DTYPES)))
    shape: tuple[int, ...] = field(validator=deep_iterable([ge(0), le(_MAX_EXTENT)], max_len(_MAX_RANK)))
    data_offsets: tuple[int, ...] = field(validator=_offsets)


@frozen
class _Header:
    tensors: Mapping[str, _Entry]


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
        header = structure(_Header, {"tensors": json.loads(mapped[begin : begin + length])}, "")
        _check_cover(header.tensors.values(), member.size - _LENGTH.size - length)
        return {
            name: _view(mapped, begin + length, entry)
            for name, entry in header.tensors.items()
            if not name.startswith(_FILLER)
        }
    except (ValueError, RecursionError, ConfigError) as error:
        raise damaged(path, f"the header of its weights is wrong ({error})") from error


def _check_cover(entries: Iterable[_Entry], size: int) -> None:
    """The format wants the tensors' bytes one behind the other, without holes, up to the section's end."""
    end = 0
    for first, last in sorted(entry.data_offsets for entry in entries):
        if first != end:
            raise ValueError("its tensors overlap or leave a hole")
        end = last
    if end != size:
        raise ValueError("its tensors do not fill the section")


def _view(mapped: mmap.mmap, base: int, entry: _Entry) -> Array:
    dtype = dtypes.to_numpy(_DTYPES[entry.dtype])
    first = base + entry.data_offsets[0]
    count = math.prod(entry.shape)
    if first % ALIGNMENT:
        raise ValueError(f"a tensor does not begin at a multiple of {ALIGNMENT} bytes")
    return np.frombuffer(mapped, dtype, count, first).reshape(entry.shape)
