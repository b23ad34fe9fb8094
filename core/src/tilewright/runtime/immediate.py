"""Building and running a program at once, without an artifact: for tests, measurements and conformance."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.compiler import build_program
from tilewright.config.binding import Settings
from tilewright.ir import dtypes
from tilewright.ir.program import Program
from tilewright.runtime.built import bound
from tilewright.runtime.native import NativeProgram


@contextmanager
def loaded(program: Program, settings: Settings, threads: int = 1) -> Iterator[NativeProgram]:
    """The program, built for the configured target and loaded in this process."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        output = build_program(program, settings, Path(folder))
        weights = {w.name: w.load() for w in output.weights}
        native = bound(output.library, weights, output.data, settings, threads)
    try:
        yield native
    finally:
        native.close()


def run(
    program: Program, settings: Settings, inputs: Sequence[npt.NDArray[Any]], threads: int = 1
) -> list[npt.NDArray[Any]]:
    """The outputs of one run. They are poisoned before, so that an element that nothing writes is seen."""
    outputs = [poisoned(v.static_shape(), v.dtype) for v in program.outputs]
    with loaded(program, settings, threads) as native:
        native.run([np.ascontiguousarray(x) for x in inputs], outputs)
    return outputs


def poisoned(shape: Sequence[int], dtype: str) -> npt.NDArray[Any]:
    """An array of NaN, or of the largest integer."""
    array = np.empty(shape, dtypes.to_numpy(dtype))
    if dtypes.is_narrow(dtype):
        array.view(np.uint8)[...] = 1
    else:
        array[...] = np.nan if dtypes.is_float(dtype) else dtypes.integer_range(dtype)[1]
    return array
