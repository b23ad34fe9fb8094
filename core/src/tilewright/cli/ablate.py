"""`tilewright ablate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tilewright.bench.measure import Limits
from tilewright.bench.run import Compilation
from tilewright.cli.base import Command, threads_option
from tilewright.cli.options import Shapes
from tilewright.cli.options import shapes as parse_shapes
from tilewright.cli.output import Output, table
from tilewright.config import Config, ConfigError, load_config
from tilewright.config.loading import load_mapping
from tilewright.errors import TilewrightError
from tilewright.files import replacing
from tilewright.study.design import Arm, arms
from tilewright.study.run import ArmResult, ModelStudy, Settings, study_model
from tilewright.testing.seeded import LIGHT_PREFIX
from tilewright.threads import thread_count


@click.command("ablate", cls=Command)
@click.argument("study", metavar="STUDY.toml", type=click.Path(path_type=Path))
@click.option("--model", "models", multiple=True, metavar="MODEL", help="Instead of the study's models.")
@click.option("--target", metavar="T", help="Instead of the study's target.")
@click.option("--against", type=click.Choice(["onnxruntime", "reference"]), default="onnxruntime", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), help="Turns of each arm, instead of the study's.")
@click.option("--seconds", type=float, help="Least length of a turn, instead of the study's.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the inputs.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Arms compiled side by side, which makes each compilation take longer.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=1x3x224x224",
    callback=parse_shapes,
    help="Shape of an input with symbolic dimensions; may be repeated.",
)
@click.option("-o", "--output", "report", metavar="FILE", type=click.Path(path_type=Path), help="Write all as JSON.")
@click.option("--no-cache", is_flag=True, help="Neither read nor fill the cache.")
@click.option("--strict", is_flag=True, help="A broken plugin is an error, not a warning.")
@threads_option
def command(output: Output, study: Path, report: Path | None, models: tuple[str, ...], **options: Any) -> int:
    """Run the study in STUDY.toml: arms that differ in named factors.

    Every arm is compiled and checked in a process of its own; those whose outputs agree are timed in turns.
    An arm that fails or differs is shown with its cause; arms with the same program are said to be the same.
    Exit with 1 if an arm's outputs differ.
    """
    mapping = load_mapping(study)
    config = load_config(mapping)
    if config.study is None:
        raise ConfigError(f"{study} describes no study.", "Add a table [study] with factors.")
    chosen = models or tuple(_relative(model, study) for model in config.study.models)
    if not chosen:
        raise ConfigError(f"{study} names no models.", "Give study.models, or --model.")
    found = arms(mapping, config.study)
    results: list[ModelStudy] = []
    failures: dict[str, TilewrightError] = {}
    for model in chosen:
        with output.progress(f"studying {model}") as follow:
            try:
                results.append(study_model(model, found, _settings(config, **options), follow))
            except TilewrightError as error:
                failures[model] = error
                output.note(f"{model}: {error}")
    document = {
        "study": str(study),
        "arms": [arm.name for arm in found],
        "models": [result.as_json() for result in results],
        "failures": {model: str(error) for model, error in failures.items()},
    }
    if report is not None:
        with replacing(report) as file:
            file.write(json.dumps(document, indent=1).encode() + b"\n")
    output.result(document, _table(results, found))
    return _exit_code(results, failures)


def _relative(model: str, study: Path) -> str:
    return model if model.startswith(LIGHT_PREFIX) else str(study.parent / model)


def _settings(
    config: Config,
    *,
    target: str | None,
    against: str,
    rounds: int | None,
    seconds: float | None,
    seed: int,
    jobs: int,
    shapes: Shapes,
    no_cache: bool,
    strict: bool,
    threads: int | None,
) -> Settings:
    study = config.study
    assert study is not None
    return Settings(
        Compilation(target, None, shapes, not no_cache, strict),
        thread_count(threads),
        against,
        rounds or study.rounds,
        seconds or study.seconds,
        seed,
        Limits(study.time_limit, int(study.memory_limit * 2**30)),
        jobs,
    )


def _table(results: Sequence[ModelStudy], arms: Sequence[Arm]) -> Any:
    rows: list[list[object]] = []
    for result in results:
        base = result.arms[0].measured
        for arm in result.arms:
            rows.append([result.model, arm.arm.name, *_cells(arm, base.median if base else None)])
        own = result.reference_measured
        if own is not None:
            relative = f"{own.median / base.median:.2f}" if base else ""
            rows.append(
                [result.model, result.reference, "", "", "", f"{own.median * 1e3:.3f} ±{own.spread:.0%}", relative, ""]
            )
    columns = ["model", "arm", "state", "error", "kernels", "ms", f"vs {arms[0].name}", "remark"]
    return table(columns, rows, right=columns[3:7])


def _cells(result: ArmResult, base: float | None) -> list[object]:
    measured = result.measured
    remark = f"same program as {result.same_as}" if result.same_as else result.why
    return [
        result.state,
        f"{result.error:.1e}" if result.compiled else "",
        result.compiled.manifest.kernels if result.compiled else "",
        f"{measured.median * 1e3:.3f} ±{measured.spread:.0%}" if measured else "",
        f"{measured.median / base:.2f}" if measured and base else "",
        remark,
    ]


def _exit_code(results: Sequence[ModelStudy], failures: dict[str, TilewrightError]) -> int:
    states = {arm.state for result in results for arm in result.arms}
    if "differs" in states:
        return 1
    return max((error.exit_code for error in failures.values()), default=2 if "failed" in states else 0)
