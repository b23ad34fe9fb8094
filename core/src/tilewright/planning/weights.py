"""The weights of a program: each computed when the artifact is written, and dropped at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.ir.program import Program
from tilewright.rewrites.pack import packed_array
from tilewright.runtime.native import Weight


def weights_of(program: Program) -> tuple[Weight, ...]:
    """The program's weights in the order of its storage, under the names that its placements have."""
    return tuple(_weight(program, name) for name in program.weights)


def _weight(program: Program, name: str) -> Weight:
    value = program.storage.placements[name].value
    return Weight(name, value.dtype, value.static_shape(), _loader(program, name))


def _loader(program: Program, name: str) -> Callable[[], npt.NDArray[Any]]:
    packed = program.packed.get(name)
    if packed is None:
        return lambda: np.ascontiguousarray(program.constants[name].data)
    source = program.constants[packed.access.value.name].data
    return lambda: packed_array(packed, source)
