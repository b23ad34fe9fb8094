"""What a builder tells the loader of a library: the table of its buffers, and an entry whose name seals it.

A library takes the addresses of its buffers from the table without looking, so the table of another program would make
it read and write anywhere. The name of its entry therefore holds a digest of everything that the loader is told: where
anything was changed, the library has no such entry.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from tilewright.errors import DamagedError, InternalError
from tilewright.runtime.native import Array

CONTROL = "control"
"""Kind of the buffer that is in the host's memory, whatever the target: where active calls return to."""

CELLS = "graph.cells"
"""Name of the buffer by which the device decides what the host program would; see `build.cuda.graph`."""
CELL_BYTES = 32
"""What it holds of a loop or branch: trips, most trips, whether it goes on; the rest keeps cells apart."""


def described(table: Sequence[tuple[str, str, int]], facts: Mapping[str, Any], target: str) -> dict[str, Any]:
    """`BuildOutput.data` of a library for `target`: the entry, name, kind and bytes of each buffer, and `facts`."""
    data = {**facts, "buffers": [list(x) for x in table]}
    return {"entry": _entry(data, target), **data}


def _entry(data: Mapping[str, Any], target: str) -> str:
    told = {key: value for key, value in data.items() if key != "entry"}
    text = json.dumps([target, told], sort_keys=True)
    return f"main_{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def check_seal(data: Mapping[str, Any], target: str) -> None:
    """Raises DamagedError where `data` was not `described` for a library of `target`, or was changed since."""
    if data.get("entry") != _entry(data, target):
        raise DamagedError("what its manifest says about its library was changed")


def load_library(path: Path, entry: str) -> tuple[Any, Any]:
    """The library's module and its function `entry`. Raises DamagedError where there is none."""
    try:
        module = tvm_ffi.load_module(str(path.resolve()))
        return module, module[entry]
    except (AttributeError, OSError, RuntimeError) as error:
        raise DamagedError("its library cannot be loaded, or is the one of another program") from error


class BufferTable:
    """The table that a library runs over: one address for each buffer, then the value of each symbol.

    Attributes:
        addresses: of the buffers, in order, and the symbols; zero until they are set.
        pointer: the table's own address.
        inputs: places of the inputs in it, in the manifest's order.
        outputs: the same of the outputs.
        input_bytes: size of each input.
        output_bytes: size of each output.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._buffers: list[tuple[str, str, int]] = [(name, kind, size) for name, kind, size in data["buffers"]]
        self._symbols: list[tuple[str, int, int]] = [(name, low, high) for name, low, high in data.get("symbols", ())]
        self.addresses = np.zeros(max(len(self._buffers) + len(self._symbols), 1), np.uint64)
        self.pointer = ctypes.c_void_p(self.addresses.ctypes.data)
        self.inputs = [number for number, _ in self.sizes("input")]
        self.outputs = [number for number, _ in self.sizes("output")]
        self.input_bytes = [size for _, size in self.sizes("input")]
        self.output_bytes = [size for _, size in self.sizes("output")]

    def check(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Raises InternalError where a run is given another number of arrays than the library takes."""
        if len(inputs) != len(self.inputs) or len(outputs) != len(self.outputs):
            raise InternalError(
                f"The program takes {len(self.inputs)} inputs and {len(self.outputs)} outputs, "
                f"got {len(inputs)} and {len(outputs)}."
            )

    def enter(self, symbols: Mapping[str, int]) -> None:
        """Sets the values of the symbols. Raises InternalError where one is missing or out of its bounds."""
        for number, (name, low, high) in enumerate(self._symbols, len(self._buffers)):
            if not low <= symbols.get(name, -1) <= high:
                raise InternalError(f"The program takes {name!r} from {low} to {high}, got {symbols.get(name)}.")
            self.addresses[number] = symbols[name]

    @property
    def values(self) -> tuple[int, ...]:
        """The values of the symbols."""
        return tuple(self.addresses[len(self._buffers) :].tolist()) if self._symbols else ()

    def weights(self, given: Mapping[str, Array]) -> Iterator[tuple[int, Array]]:
        """Place and array of each weight. Raises DamagedError where one is missing or has another size."""
        for number, (name, kind, size) in enumerate(self._buffers):
            if kind != "weight":
                continue
            if name not in given or given[name].nbytes != size:
                raise DamagedError(f"it has no weight {name!r} of {size} bytes")
            yield number, given[name]

    def place(self, name: str) -> tuple[int, int]:
        """Bytes and address of a buffer."""
        number = next(i for i, x in enumerate(self._buffers) if x[0] == name)
        return self._buffers[number][2], int(self.addresses[number])

    def sizes(self, *kinds: str) -> Iterator[tuple[int, int]]:
        """Place and bytes of each buffer of one of the `kinds`."""
        for number, (_, kind, size) in enumerate(self._buffers):
            if kind in kinds:
                yield number, size
