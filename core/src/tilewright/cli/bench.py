"""`tilewright bench`."""

from __future__ import annotations

import math
from typing import Any

import click

from tilewright.bench.measure import Limits
from tilewright.bench.run import OURS, Compilation, ModelResult, bench_model
from tilewright.cli.base import Command, threads_option
from tilewright.cli.options import Shapes, compile_options
from tilewright.cli.output import Output, table
from tilewright.errors import TilewrightError
from tilewright.sizes import size_text
from tilewright.threads import thread_count


@click.command("bench", cls=Command)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    type=click.Choice(["onnxruntime", "reference"]),
    default=["onnxruntime"],
    show_default=True,
    help="What to measure beside it; may be repeated.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of each engine.")
@click.option("--seconds", type=float, default=1.0, show_default=True, help="Least length of a turn.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the inputs.")
@click.option("--time-limit", type=float, default=600.0, show_default=True, help="Seconds for each step.")
@compile_options
@threads_option
def command(
    output: Output,
    models: tuple[str, ...],
    engines: tuple[str, ...],
    rounds: int,
    seconds: float,
    seed: int,
    time_limit: float,
    threads: int | None,
    target: str | None,
    config: str | None,
    shapes: Shapes,
    no_cache: bool,
    strict: bool,
) -> int:
    """Time each MODEL beside other engines, each in a process of its own, taking turns; medians.

    The outputs are compared first; exit with 1 if they differ. MODEL is a path, or light:NAME.
    """
    compilation = Compilation(target, config, shapes, not no_cache, strict)
    results: list[ModelResult] = []
    failures: dict[str, TilewrightError] = {}
    for model in models:
        with output.progress(f"measuring {model}"):
            try:
                results.append(
                    bench_model(
                        model,
                        compilation,
                        others=engines,
                        threads=thread_count(threads),
                        rounds=rounds,
                        seconds=seconds,
                        seed=seed,
                        limits=Limits(time_limit),
                    )
                )
            except TilewrightError as error:
                failures[model] = error
                output.note(f"{model}: {error}")
    geomeans = {engine: _geomean([result.ratio(engine) for result in results]) for engine in engines}
    output.result(
        {
            "threads": thread_count(threads),
            "models": [result.as_json() for result in results],
            "failures": {model: str(error) for model, error in failures.items()},
            "geomean_of_ratios": geomeans,
        },
        _table(results, failures, engines, geomeans),
    )
    if not all(result.agree for result in results):
        return 1
    return max((error.exit_code for error in failures.values()), default=0)


def _geomean(ratios: list[float]) -> float | None:
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None


def _table(
    results: list[ModelResult],
    failures: dict[str, TilewrightError],
    engines: tuple[str, ...],
    geomeans: dict[str, float | None],
) -> Any:
    columns = ["model", "agrees", "error", "kernels", "compile", "compile peak", f"{OURS} ms", "peak"]
    for engine in engines:
        columns += [f"{engine} ms", f"peak of {engine}", f"{OURS}/{engine}"]
    rows: list[list[object]] = []
    for result in results:
        ours = result.engines[OURS]
        row: list[object] = [
            result.model,
            "yes" if result.agree else "NO",
            f"{result.worst_error:.1e}",
            result.compiled.manifest.kernels,
            "cached" if result.compiled.cached else f"{result.compiled.seconds:.1f} s",
            size_text(result.compiled.peak_bytes),
            f"{ours.median * 1e3:.3f} ±{ours.spread:.0%}",
            size_text(ours.peak_bytes),
        ]
        for engine in engines:
            other = result.engines[engine]
            row += [
                f"{other.median * 1e3:.3f} ±{other.spread:.0%}",
                size_text(other.peak_bytes),
                f"{result.ratio(engine):.2f}",
            ]
        rows.append(row)
    rows += [[model, "FAILED"] for model in failures]
    if len(results) > 1:
        means: list[object] = ["geometric mean", *[""] * 7]
        for engine in engines:
            means += ["", "", f"{geomeans[engine]:.2f}"]
        rows.append(means)
    return table(columns, rows, right=columns[2:])
