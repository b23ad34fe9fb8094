"""`tilewright compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import click

from tilewright.bench.measure import Limits, engine_worker, outputs_of
from tilewright.cli.base import Command, threads_option
from tilewright.cli.compile import compiled
from tilewright.cli.options import compile_options, model_argument, opened_model, value_options
from tilewright.cli.output import Output, table
from tilewright.cli.run import open_artifact
from tilewright.cli.tensors import read_arrays, read_inputs
from tilewright.compare import Agreement, Tolerance, compare_outputs
from tilewright.frontend.text import given_module, is_text
from tilewright.interpret.tensor import interpret
from tilewright.runtime.executable import Executable
from tilewright.runtime.feeds import refuse_others
from tilewright.runtime.native import Array
from tilewright.runtime.random_feeds import random_feeds
from tilewright.threads import thread_count


@click.command("compare", cls=Command)
@model_argument
@click.option("--artifact", metavar="FILE", type=click.Path(path_type=Path), help="Compare this, not a compilation.")
@click.option("--against", type=click.Choice(["onnxruntime", "reference"]), default="onnxruntime", show_default=True)
@click.option("--input", "inputs", multiple=True, metavar="NAME=FILE", help=".npy, .npz or .pb; may be repeated.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of inputs without --input.")
@click.option("--rtol", type=float, help="Also require |a-b| <= atol + rtol·|b| of each element.")
@click.option("--atol", type=float, help="See --rtol.")
@click.option("--time-limit", type=float, default=600.0, show_default=True, help="Seconds for the reference.")
@compile_options
@value_options
@threads_option
def command(
    output: Output,
    model: str,
    artifact: Path | None,
    against: str,
    inputs: tuple[str, ...],
    seed: int,
    rtol: float | None,
    atol: float | None,
    time_limit: float,
    threads: int | None,
    **options: Any,
) -> int:
    """Compare the compiled MODEL with a reference on the same inputs; exit with 1 if they differ.

    Outputs agree when dtype, shape and places of NaN and infinities are equal and the norm of the difference
    is at most 1e-4 (float32), 1e-2 (float16), 3e-2 (bfloat16) of the reference's norm; integers must be
    equal. A program of several shapes is compared at each of them, unless --input says which. The reference of a
    module of the tile IR (.tile) is the IR's own interpreter.
    """
    with opened_model(model) as path:
        text = is_text(path)
        against = "interpreter" if text else against
        with output.progress(f"compiling {model}"):
            if artifact:
                # What was fixed in the artifact, the reference has to be given.
                program = open_artifact(artifact, threads=threads, **options | {"bound": ()})
            else:
                program = compiled(str(path), threads=threads, **options)
        with program:
            refuse_others((*program.inputs, *program.outputs), "compare")
            given = read_inputs(inputs, program.inputs)
            bound = read_arrays(options["bound"], "--bind")
            found: list[tuple[str, Agreement]] = []
            sets = program.manifest.shape_sets({name: array.shape for name, array in given.items()})
            for examples in sets:
                feeds = {**random_feeds(examples, seed), **given}
                ours = program.run(None, feeds)
                with output.progress(f"running {against}"):
                    if text:
                        theirs = [*interpret(given_module(path, {}, bound), feeds)]
                    else:
                        theirs = _reference(path, against, bound | feeds, thread_count(threads), time_limit)
                shapes = " ".join(f"{info.name}={info}" for info in examples)
                agreements = _compare(program, ours, theirs, Tolerance(rtol=rtol, atol=atol))
                found += [(shapes, agreement) for agreement in agreements]
    agree = all(agreement.ok for _, agreement in found)
    several = len(sets) > 1
    output.result(
        {
            "agree": agree,
            "against": against,
            "outputs": [attrs.asdict(a) | ({"inputs": shapes} if several else {}) for shapes, a in found],
        },
        table(
            [*(["inputs"] if several else []), "output", "agrees", "‖a-b‖/‖b‖", "max |a-b|", "why not"],
            [
                [
                    *([shapes] if several else []),
                    *(a.name, "yes" if a.ok else "NO", f"{a.norm_error:.2e}", f"{a.max_error:.2e}", a.why),
                ]
                for shapes, a in found
            ],
            right=("‖a-b‖/‖b‖", "max |a-b|"),
        ),
    )
    return 0 if agree else 1


def _reference(path: Path, engine: str, feeds: dict[str, Array], threads: int, seconds: float) -> list[Array]:
    with engine_worker(engine, path, feeds, threads, Limits(seconds)) as worker:
        return outputs_of(worker)


def _compare(program: Executable, ours: list[Array], theirs: list[Array], tolerance: Tolerance) -> list[Agreement]:
    return compare_outputs([info.name for info in program.outputs], ours, theirs, tolerance)
