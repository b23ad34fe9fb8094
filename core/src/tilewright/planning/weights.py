"""The weights of a program: each computed when the artifact is written, and dropped at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.ir import serial
from tilewright.ir.program import Program
from tilewright.rewrites.pack import packed_array
from tilewright.runtime.native import Weight


def weights_of(program: Program) -> tuple[Weight, ...]:
    """The program's weights in the order of its storage, under the names that its placements have."""
    return tuple(_weight(program, name) for name in program.weights)


def _weight(program: Program, name: str) -> Weight:
    value = program.storage.placements[name].value
    return Weight(name, value.dtype, value.static_shape(), _loader(program, name), _key(program, name))


def _key(program: Program, name: str) -> str:
    """What the contents follow from: the constant's bytes, and how they are packed."""
    packed = program.packed.get(name)
    if packed is None:
        return program.constants[name].digest
    source = packed.access.value
    access = attrs.evolve(packed.access, value=attrs.evolve(source, name="source"))
    text = serial.dump(attrs.evolve(packed, name="packed", access=access))
    return hashlib.sha256(f"{program.constants[source.name].digest} {text}".encode()).hexdigest()


def _loader(program: Program, name: str) -> Callable[[], npt.NDArray[Any]]:
    packed = program.packed.get(name)
    if packed is None:
        return lambda: np.ascontiguousarray(program.constants[name].data)
    source = program.constants[packed.access.value.name].data
    return lambda: packed_array(packed, source)
