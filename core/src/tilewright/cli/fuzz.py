"""`tilewright fuzz`."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tilewright.cli.base import Command
from tilewright.cli.output import Output, lines
from tilewright.config.loading import load_config
from tilewright.testing import fuzz


@click.command("fuzz", cls=Command)
@click.option("--seed", type=click.IntRange(min=0), help="Of the first graph; then one more each.  [default: any]")
@click.option("--count", type=click.IntRange(min=1), help="Graphs.  [default: 100, or no limit with a time]")
@click.option("--seconds", type=click.FloatRange(min=0), help="Stop after so long.")
@click.option("--minutes", type=click.FloatRange(min=0), help="Stop after so long.")
@click.option("--target", metavar="T", help="What to compile for; it must run here.  [default: the configuration's]")
@click.option("--stop", is_flag=True, help="Stop at the first failure.")
@click.option(
    "-o",
    "--out",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    default=Path("fuzz-failures"),
    show_default=True,
    help="Where failures are written: model, inputs, expected outputs.",
)
def command(
    output: Output,
    seed: int | None,
    count: int | None,
    seconds: float | None,
    minutes: float | None,
    target: str | None,
    stop: bool,
    out: Path,
) -> int:
    """Compile random graphs and compare them with ONNX's reference evaluator.

    Each graph follows from its seed and runs in a worker that may die. Exit with 1 if a graph gives another answer, an
    exception or a crash; those that are refused with a clear error are counted.
    """
    chosen = load_config({}, target=target).target
    first = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    limit = None if seconds is None and minutes is None else (seconds or 0.0) + 60 * (minutes or 0.0)
    if count is None and limit is None:
        count = 100
    seeds = itertools.count(first) if count is None else iter(range(first, first + count))
    output.note(f"seed {first}, target {chosen}")
    places: list[Path] = []

    def seen(report: fuzz.Report) -> None:
        say(f"{report.graphs} graphs, {len(report.failures)} failures")
        for failure in report.failures[len(places) :]:
            places.append(fuzz.write_reproducer(out, failure, chosen))
            output.note(f"seed {failure.seed} {failure.kind}: {failure.detail} ({places[-1]})")

    began = time.monotonic()
    until = float("inf") if limit is None else began + limit
    with output.progress("fuzzing") as say:
        report = fuzz.campaign(seeds, chosen, until=until, stop=stop, progress=seen)
    data = {"seed": first, "target": chosen, "seconds": time.monotonic() - began, **fuzz.as_data(report)}
    output.result({**data, "reproducers": [str(x) for x in places]}, _text(data))
    return 1 if report.failures else 0


def _text(data: Mapping[str, Any]) -> str:
    operators = data["operators"]
    shown = {
        "seed": data["seed"],
        "graphs": f"{data['graphs']} in {data['seconds']:.0f} s",
        "failures": len(data["failures"]) or "none",
        "declined": "; ".join(f"{n} × {why}" for why, n in data["declined"].items()) or "none",
        f"{len(operators)} operators": ", ".join(f"{kind} {n}" for kind, n in operators.items()),
    }
    return lines(shown)
