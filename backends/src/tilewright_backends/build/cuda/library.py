"""Machine code inside a shared library, in the form in which TVM's runtime unpacks it when the library is loaded.

TVM would do this itself, but only on a machine whose CUDA driver loads. The layout is that of the pinned version: a
table of modules in the symbol `__tvm_ffi__library_bin`, each a kind and its bytes; integers are 64-bit little-endian,
strings have their length in front.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tilewright_backends.build.cuda.source import DeviceKernel
from tilewright_backends.machine_code import SYMBOL

_POINTER = struct.pack("<BBH", 3, 64, 1)  # DLPack's dtype of an opaque handle: code, bits, lanes
_INT64 = struct.pack("<BBH", 0, 64, 1)
_PLAIN, _COPIED = struct.pack("<i", 0), struct.pack("<i", 1)
"""How an argument is given: as it is, or as the address of what is copied (TVM calls this a tensor map)."""


def _number(value: int) -> bytes:
    return struct.pack("<Q", value)


def _text(value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _number(len(data)) + data


def cuda_module(code: bytes, kernels: Sequence[DeviceKernel], form: str = "cubin") -> bytes:
    """A CUDA module as TVM's runtime reads it: format, functions with arguments and launch tags, code."""
    parts = [_text(form), _number(len(kernels))]
    for kernel in kernels:
        pointers, maps, structs = len(kernel.params), len(kernel.maps), int(kernel.words > 0)
        tags, arguments = kernel.launch_tags, structs + pointers + maps + kernel.numbers
        parts += [
            _text(kernel.name),
            _text(kernel.name),
            _number(arguments),
            _POINTER * (structs + pointers + maps) + _INT64 * kernel.numbers,
            _number(len(tags)),
            *(_text(tag) for tag in tags),
            _number(arguments),
            _COPIED * structs + _PLAIN * pointers + _COPIED * maps + _PLAIN * kernel.numbers,
        ]
    parts.append(_text(code))
    return b"".join(parts)


def packed_modules(modules: Sequence[bytes], kind: str = "cuda") -> bytes:
    """The table of a library that imports modules of a kind, as TVM's runtime calls it."""
    count = len(modules)
    rows = [0] + [count] * (count + 1)
    parts = [_number(len(rows)), *map(_number, rows), _number(count), *(_number(i + 1) for i in range(count))]
    parts.append(_text("_lib"))
    for module in modules:
        parts += [_text(kind), _text(module)]
    body = b"".join(parts)
    return _number(len(body)) + body


def assembly(path: str) -> str:
    """Assembler source that puts a file's bytes under the symbol that the runtime looks for."""
    return f"""\
.section .rodata
.globl {SYMBOL}
.type {SYMBOL}, @object
.balign 64
{SYMBOL}:
.incbin "{path}"
.size {SYMBOL}, . - {SYMBOL}
.section .note.GNU-stack, "", @progbits
"""
