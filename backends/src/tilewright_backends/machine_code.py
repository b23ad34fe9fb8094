"""Machine code taken out of a library again, which `build.cuda.library` describes and packs. Needs no TVM."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

SYMBOL = "__tvm_ffi__library_bin"
"""Where TVM's runtime looks for the table of modules in a library."""


class _Reader:
    """Takes 64-bit integers, and strings with their length in front, from the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def text(self) -> bytes:
        return self.take(self.number())


def machine_code(library: Path) -> list[bytes]:
    """The code of each CUDA module of a library of ours."""
    start = ctypes.addressof(ctypes.c_char.in_dll(ctypes.CDLL(str(library.resolve())), SYMBOL))
    size = _Reader(ctypes.string_at(start, 8)).number()
    reader = _Reader(ctypes.string_at(start + 8, size))
    for _ in range(reader.number()):
        reader.number()
    modules = reader.number()
    reader.take(8 * modules)
    reader.text()  # of the library itself
    found = []
    for _ in range(modules):
        reader.text()  # the kind
        found.append(_code(_Reader(reader.text())))
    return found


def _code(module: _Reader) -> bytes:
    """What stands behind the functions of a module."""
    module.text()
    for _ in range(module.number()):
        module.text()
        module.text()
        module.take(4 * module.number())
        for _ in range(module.number()):
            module.text()
        module.take(4 * module.number())
    return module.text()
