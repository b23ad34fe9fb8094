"""`tilewright run`."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import click
import numpy as np

from tilewright.artifact import Artifact
from tilewright.cli.base import Command, threads_option
from tilewright.cli.options import compile_options, refuse_for_artifact, value_options
from tilewright.cli.output import Output, lines, table
from tilewright.cli.tensors import read_inputs, save_outputs
from tilewright.ir import dtypes
from tilewright.runtime.executable import Executable, load_artifact
from tilewright.runtime.native import Array
from tilewright.runtime.random_feeds import random_feeds
from tilewright.runtime.specialise import Jit

_COLUMNS = ("name", "dtype", "shape", "min", "mean", "max", "not finite")


@click.command("run", cls=Command)
@click.argument("file", metavar="FILE")
@click.option("--input", "inputs", multiple=True, metavar="NAME=FILE", help=".npy, .npz or .pb; may be repeated.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of inputs without --input.")
@click.option("--save-outputs", "folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--stats", is_flag=True, help="Show what the program did: native runs, specialisations, …")
@compile_options
@value_options
@threads_option
def command(
    output: Output,
    file: str,
    inputs: tuple[str, ...],
    seed: int,
    folder: Path | None,
    stats: bool,
    **options: Any,
) -> None:
    """Run FILE, an artifact or an ONNX model, and show its outputs.

    Running an artifact runs the native code in it: only run files that you trust. Inputs that no --input
    gives are
    random: floats standard normal, integers 0 or 1.
    """
    with output.progress(f"opening {file}"):
        program = open_program(file, **options)
    with program:
        given = read_inputs(inputs, program.inputs)
        examples = program.manifest.examples({name: array.shape for name, array in given.items()})
        feeds = {**random_feeds(examples, seed), **given}
        start = time.perf_counter()
        results = program.run(None, feeds)
        seconds = time.perf_counter() - start
        names = [info.name for info in program.outputs]
        counters = attrs.asdict(program.stats)
    saved = save_outputs(folder, list(zip(names, results, strict=True))) if folder else []
    data = [_summary(name, array) for name, array in zip(names, results, strict=True)]
    rows = [[*map(_short, row.values())] for row in data]
    output.result(
        {
            "outputs": data,
            "seconds": seconds,
            "saved": [str(path) for path in saved],
            **({"stats": counters} if stats else {}),
        },
        table(_COLUMNS, rows, right=("min", "mean", "max")),
    )
    if stats and not output.json_mode:
        output.result(counters, lines({name.replace("_", " "): _short(value) for name, value in counters.items()}))


def open_program(file: str, *, threads: int | None, **options: Any) -> Executable:
    """The program in an artifact, which takes no options of a compilation, or the one that a model compiles to."""
    if is_artifact(file):
        return open_artifact(file, threads=threads, **options)
    from tilewright.cli.compile import compiled

    return compiled(file, threads=threads, **options)


def open_artifact(file: str | Path, *, threads: int | None, no_jit: bool, no_cache: bool, **options: Any) -> Executable:
    """The program in an artifact, which takes no options of a compilation but those that matter when it compiles."""
    with ExitStack() as stack:
        artifact = stack.enter_context(Artifact(file))
        compiles = "compiler" in artifact.manifest.requires
        refuse_for_artifact(file, no_cache=no_cache and not compiles, **options)
        stack.pop_all()  # it belongs to the program from here on
    return load_artifact(artifact, threads=threads, jit=Jit(not no_jit, cache=not no_cache))


def is_artifact(file: str) -> bool:
    """Whether `file` begins as a zip file does, and so is no ONNX model."""
    try:
        with Path(file).open("rb") as stream:
            return stream.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def _summary(name: str, found: Any) -> dict[str, object]:
    if not isinstance(found, np.ndarray):
        kind, shape = ("none", []) if found is None else ("sequence", [len(found)])
        return dict.fromkeys(_COLUMNS) | {"name": name, "dtype": kind, "shape": shape}
    if found.dtype == object:
        return dict.fromkeys(_COLUMNS) | {"name": name, "dtype": "string", "shape": list(found.shape)}
    array: Array = found
    numbers = array.astype(np.float64) if array.size else np.zeros(0)
    finite = numbers[np.isfinite(numbers)]
    return {
        "name": name,
        "dtype": dtypes.from_numpy(array.dtype),
        "shape": list(array.shape),
        "min": float(finite.min()) if finite.size else None,
        "mean": float(finite.mean()) if finite.size else None,
        "max": float(finite.max()) if finite.size else None,
        "not finite": int(numbers.size - finite.size),
    }


def _short(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else "" if value is None else str(value)
