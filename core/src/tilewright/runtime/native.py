"""What a backend gives the core: a built library and, at run time, a loaded program.

A backend registers a `Backend` record (see `tilewright.plugins.records`) whose `builder` makes a
`BuildOutput` and whose `loader` turns the sections of an artifact back into a `NativeProgram`. Neither
protocol mentions a code generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from attrs import field, frozen

Array = np.ndarray[Any, np.dtype[Any]]

NO_SYMBOLS: Mapping[str, int] = {}
"""The symbols of a program of fixed shapes."""


@frozen
class Weight:
    """One constant of the built program, produced only when it is written.

    Args:
        name: unique among the weights of a program.
        dtype: the IR's name of the element type (`tilewright.ir.dtypes`).
        shape: extents as stored, after any packing.
        load: gives the array; called once while the artifact is written and the result dropped at once, so
            that large weights are never held together. It may pack or transpose.
        key: weights with equal keys have equal dtype, shape and contents, and are stored once; empty: nothing is known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], Array] = field(eq=False, repr=False)
    key: str = ""


@frozen
class TaskTime:
    """A task that a unit of a traced launch ran.

    Args:
        unit: number of the unit.
        place: the multiprocessor that it stood on.
        kernel: name of the kernel.
        nodes: ONNX nodes that it computes.
        task: its number.
        begin: nanoseconds of the device's clock.
        end: when all threads of the unit were done with it.
    """

    unit: int
    place: int
    kernel: str
    nodes: tuple[str, ...]
    task: int
    begin: int
    end: int


@frozen
class BuildOutput:
    """What a builder returns.

    Args:
        library: path of the shared library; moved into the artifact by the caller.
        weights: the constants, in the order in which the loaded program wants them.
        data: what the backend's own loader needs later (entry names, workspace bytes, …); JSON values only.
        requires: what running needs beyond the file: `runtime`, `reference`, `compiler`.
        versions: compiler and toolchain versions, recorded in the manifest and part of the cache key.
    """

    library: Path
    weights: Sequence[Weight] = ()
    data: Mapping[str, Any] = field(factory=dict)
    requires: tuple[str, ...] = ("runtime",)
    versions: Mapping[str, str] = field(factory=dict)


class Builder(Protocol):
    """A backend's builder: the callable that its `Backend` record names."""

    def __call__(
        self,
        program: Any,
        *,
        target: str,
        emitters: Mapping[str, Callable[..., Any]],
        workdir: Path,
    ) -> BuildOutput:
        """Generates code for `program` (a `tilewright.ir.program` form) and compiles it.

        Args:
            program: the planned program with its constants.
            target: canonical target string.
            emitters: what `RecipeEntry.emitter` names, by recipe, for the recipes that the program uses.
            workdir: an empty private folder for intermediate files; the caller removes it.
        """


class NativeProgram(Protocol):
    """A program loaded on one device.

    It need not be thread-safe: `Executable` serialises the calls.

    Attributes:
        input_bytes: the most that each input takes, in the manifest's order. An artifact whose manifest says otherwise
            is refused.
        output_bytes: the same of each output.
    """

    input_bytes: Sequence[int]
    output_bytes: Sequence[int]

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], symbols: Mapping[str, int] = NO_SYMBOLS) -> None:
        """Computes `outputs` from `inputs`, both in the manifest's order, for the given values of the symbols.

        Inputs are aligned as NumPy happened to align them, outputs to 64 bytes. Every array is a C-contiguous
        host array of the declared dtype and of the actual shape. Outputs are allocated by the caller and hold
        garbage on entry. Inputs are only read. An exception must leave the program usable.
        """

    def measure(self, rounds: int) -> Sequence[float]:
        """Seconds of each of `rounds` further runs on the arrays of the last `run`, transfers left out."""

    def timeline(self) -> Mapping[str, Sequence[TaskTime]]:
        """What the units of each traced launch ran in the last run, by the launch's name."""

    def close(self) -> None:
        """Frees what the program holds. Called once; no `run` follows."""


class Loader(Protocol):
    """A backend's loader: the callable that its `Backend` record names."""

    def __call__(
        self,
        library: Path,
        weights: Mapping[str, Array],
        data: Mapping[str, Any],
        *,
        target: str,
        threads: int,
    ) -> NativeProgram:
        """Loads `library` and binds `weights`.

        Args:
            library: a private copy of the library on disk, removed once this call returns: open it now.
            weights: read-only arrays mapped from the artifact, 64-byte aligned, valid until `close`. A loader
                keeps them by reference and does not copy them to other host memory.
            data: `BuildOutput.data` of the build, after a JSON round trip.
            target: canonical target string the program was built for.
            threads: worker threads that `run` may use, at least 1.

        Raises:
            InputError: this machine cannot run the program (no such device, missing instruction set).
            DamagedError: library, weights and `data` do not belong together.
        """
