"""A native step: one program per variant, each loaded when it is first used, and chosen by the shapes of the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tilewright.artifact.extents import value_of
from tilewright.artifact.manifest import Step, TensorInfo, Variant
from tilewright.errors import InputError
from tilewright.ir import dtypes
from tilewright.ir.lengths import delivered
from tilewright.runtime.feeds import symbols_of
from tilewright.runtime.native import Array, NativeProgram, TaskTime
from tilewright.runtime.stats import Stats

_ALIGNMENT = 64


class NativeStep:
    """Runs the variant that fits.

    A step with one variant loads it at once, so that a program that cannot run here says so when it is loaded.

    Args:
        load: loads the program of a variant.
    """

    def __init__(self, step: Step, load: Callable[[Variant], NativeProgram], stats: Stats) -> None:
        self._variants = step.variants
        self._load = load
        self._stats = stats
        self._programs: dict[int, NativeProgram] = {}
        self._by_shapes = {
            tuple(info.shape for info in variant.inputs): number
            for number, variant in enumerate(step.variants)
            if not variant.symbols
        }
        if len(step.variants) == 1:
            self._program(0)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The step's outputs, newly made.

        Args:
            arrays: the step's inputs, contiguous and of the declared dtypes.

        Raises:
            InputError: no variant takes arrays of these shapes.
        """
        number, results = self._run(arrays)
        variant = self._variants[number]
        return delivered([info.name for info in variant.outputs], variant.lengths, results)

    def measure(self, arrays: Sequence[Array], rounds: int) -> list[float]:
        """Seconds of each of `rounds` runs after a first, without what goes to a device and comes back.

        Raises:
            InputError: no variant takes arrays of these shapes.
        """
        number, results = self._run(arrays)
        seconds = list(self._program(number).measure(rounds))
        del results  # until here: the program wrote there
        return seconds

    def _run(self, arrays: Sequence[Array]) -> tuple[int, list[Array]]:
        """The variant that ran, and the arrays that it filled."""
        number, symbols = self._choose(arrays)
        results = [_empty(info, symbols) for info in self._variants[number].outputs]
        self._program(number).run(arrays, results, symbols)
        self._stats.native_runs += 1
        return number, results

    def timeline(self) -> dict[str, list[TaskTime]]:
        """What the units of traced launches ran in the last run, by launch."""
        return {name: list(x) for program in self._programs.values() for name, x in program.timeline().items()}

    def close(self) -> None:
        """Frees every program that was loaded."""
        while self._programs:
            self._programs.popitem()[1].close()

    def _program(self, number: int) -> NativeProgram:
        program = self._programs.get(number)
        if program is None:
            program = self._programs[number] = self._load(self._variants[number])
            self._stats.loaded += 1
        return program

    def _choose(self, arrays: Sequence[Array]) -> tuple[int, dict[str, int]]:
        """The variant for arrays of these shapes, and the extent of each of its symbols."""
        number = self._by_shapes.get(tuple([array.shape for array in arrays]))
        if number is not None:
            return number, {}
        if len(self._variants) == 1:
            return 0, symbols_of(arrays, self._variants[0].inputs, self._variants[0].symbols)
        for number, variant in enumerate(self._variants):
            if variant.symbols:
                try:
                    return number, symbols_of(arrays, variant.inputs, variant.symbols)
                except InputError:
                    continue
        raise no_shapes([variant.inputs for variant in self._variants], arrays)


def no_shapes(alternatives: Sequence[Sequence[TensorInfo]], arrays: Sequence[Array]) -> InputError:
    """The error for arrays whose shapes none of several sets has; it lists what there is.

    Only the inputs whose shapes differ between the sets, or are wrong, are shown.
    """
    by_input = list(zip(*alternatives, strict=True))
    shown = [
        number
        for number, infos in enumerate(by_input)
        if len({info.shape for info in infos}) > 1 or arrays[number].shape != infos[0].shape
    ]
    given = " ".join(f"{by_input[n][0].name}={_text(arrays[n].shape)}" for n in shown)
    there = "; ".join(" ".join(f"{infos[n].name}={_text(infos[n].shape)}" for n in shown) for infos in alternatives)
    return InputError(
        f"The program was compiled for other shapes than {given}. It has: {there}.",
        "Give arrays of these shapes, or compile the model for more with --shape.",
    )


def _text(shape: Sequence[int | str]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _empty(info: TensorInfo, symbols: Mapping[str, int]) -> Array:
    """An uninitialised array for an output, its first byte on a 64-byte boundary."""
    dtype = dtypes.to_numpy(info.dtype)
    shape = [value_of(extent, symbols) for extent in info.shape]
    size = math.prod(shape) * dtype.itemsize
    try:
        raw = np.empty(size + _ALIGNMENT, np.uint8)
    except MemoryError as error:
        raise InputError(f"There is no memory for output {info.name!r}, which takes {size} bytes.") from error
    begin = -raw.ctypes.data % _ALIGNMENT
    return raw[begin : begin + size].view(dtype).reshape(shape)
