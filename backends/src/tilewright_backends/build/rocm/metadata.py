"""What a code object says about its kernels: the note with AMD's metadata, which is MessagePack in an ELF section.

Sources: LLVM, "User Guide for AMDGPU Backend" (code object metadata, versions 3 to 5); the MessagePack specification.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from tilewright.errors import InternalError

_NOTE, _METADATA = 7, 32
"""ELF's section type for notes; the type of AMD's note."""
_WORD = 4


@attrs.frozen
class KernelFacts:
    """What is known of one kernel.

    Args:
        registers: 32-bit vector registers per lane, accumulators included.
        scalar_registers: per wave.
        spill_bytes: registers that did not fit, per lane; those of a wave count as one lane's.
        stack_bytes: memory per lane.
        shared_bytes: LDS per block.
        wave: lanes.
        threads: the most per block.
    """

    registers: int
    scalar_registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int
    wave: int
    threads: int


def facts_of(code: bytes) -> dict[str, KernelFacts]:
    """The facts of every kernel of a code object, by symbol."""
    return {str(x[".name"]): _facts(x) for x in metadata(code)["amdhsa.kernels"]}


def _facts(found: Mapping[str, Any]) -> KernelFacts:
    spilled = found.get(".vgpr_spill_count", 0) + found.get(".sgpr_spill_count", 0)
    return KernelFacts(
        found[".vgpr_count"],  # accumulators are among them where both share a file, as from gfx90a on
        found[".sgpr_count"],
        spilled * _WORD,
        found[".private_segment_fixed_size"],
        found[".group_segment_fixed_size"],
        found[".wavefront_size"],
        found[".max_flat_workgroup_size"],
    )


def metadata(code: bytes) -> dict[str, Any]:
    """The metadata of a code object. Raises InternalError when it has none."""
    for name, kind, data in _notes(code):
        if name == b"AMDGPU" and kind == _METADATA:
            value, _ = _unpack(data, 0)
            if isinstance(value, dict):
                return value
    raise InternalError("the code object has no metadata of AMD's.")


def _notes(code: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Owner, type and contents of all notes of a 64-bit little-endian ELF file."""
    (table,) = struct.unpack_from("<Q", code, 40)
    size, count = struct.unpack_from("<HH", code, 58)
    for number in range(count):
        _, kind, _, _, at, length = struct.unpack_from("<IIQQQQ", code, table + number * size)
        end = at + length
        while kind == _NOTE and at < end:
            name_size, data_size, note = struct.unpack_from("<III", code, at)
            name = code[at + 12 : at + 12 + name_size].rstrip(b"\0")
            at += 12 + -(-name_size // 4) * 4
            yield name, note, code[at : at + data_size]
            at += -(-data_size // 4) * 4


_NUMBERS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_NUMBERS |= {0xCA: ">f", 0xCB: ">d"}
_LENGTHS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I", 0xDE: ">H", 0xDF: ">I"}
_PLAIN = {0xC0: None, 0xC2: False, 0xC3: True}


def _unpack(data: bytes, at: int) -> tuple[Any, int]:
    """The MessagePack value at a place, and where the next one is."""
    tag = data[at]
    at += 1
    if tag in _PLAIN:
        return _PLAIN[tag], at
    if tag < 0x80:
        return tag, at
    if tag >= 0xE0:
        return tag - 0x100, at
    if tag in _NUMBERS:
        return struct.unpack_from(_NUMBERS[tag], data, at)[0], at + struct.calcsize(_NUMBERS[tag])
    if tag in _LENGTHS:
        (length,) = struct.unpack_from(_LENGTHS[tag], data, at)
        at += struct.calcsize(_LENGTHS[tag])
        return _FORMS[(tag - 0xD9) // 3 if tag < 0xDC else (tag - 0xDC) // 2 + 1](data, at, length)
    if tag < 0x90:
        return _map(data, at, tag & 0xF)
    if tag < 0xA0:
        return _list(data, at, tag & 0xF)
    if tag < 0xC0:
        return _string(data, at, tag & 0x1F)
    raise InternalError(f"the metadata of a code object has an unknown tag {tag:#x}.")


def _string(data: bytes, at: int, length: int) -> tuple[str, int]:
    return data[at : at + length].decode(), at + length


def _list(data: bytes, at: int, length: int) -> tuple[list[Any], int]:
    found = []
    for _ in range(length):
        value, at = _unpack(data, at)
        found.append(value)
    return found, at


def _map(data: bytes, at: int, length: int) -> tuple[dict[Any, Any], int]:
    found = {}
    for _ in range(length):
        key, at = _unpack(data, at)
        found[key], at = _unpack(data, at)
    return found, at


_FORMS: tuple[Callable[[bytes, int, int], tuple[Any, int]], ...] = (_string, _list, _map)
