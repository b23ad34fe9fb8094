"""`tilewright selfcheck`."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import click

from tilewright.bench import selfcheck
from tilewright.bench.measure import Limits
from tilewright.cli.base import Command, threads_option
from tilewright.cli.doctor import findings, require
from tilewright.cli.output import Output, table
from tilewright.cli.versions import version_text
from tilewright.errors import InputError
from tilewright.files import replacing
from tilewright.threads import thread_count


@click.command("selfcheck", cls=Command)
@click.option("--target", metavar="T", help="cpu, cuda:h200, rocm:mi300x, … [default: cpu, or what is prepared].")
@click.option("--config", metavar="FILE", type=click.Path(), help="Configuration, a TOML file.")
@click.option(
    "-o",
    "--output",
    "report",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default="tilewright-selfcheck.json",
    show_default=True,
    help="Where the report goes.",
)
@click.option("--only", multiple=True, metavar="PATTERN", help="Only items of such names; may be repeated.")
@click.option(
    "--prepare", metavar="FOLDER", type=click.Path(path_type=Path), help="Compile only, into this folder: no device."
)
@click.option(
    "--prepared", metavar="FOLDER", type=click.Path(path_type=Path), help="Run what is in this folder: no compiler."
)
@click.option("--seconds", type=float, default=0.5, show_default=True, help="Least time for which a program is timed.")
@click.option("--time-limit", type=float, default=900.0, show_default=True, help="Seconds for each step of an item.")
@threads_option
def command(
    output: Output,
    target: str | None,
    config: str | None,
    report: Path,
    only: tuple[str, ...],
    prepare: Path | None,
    prepared: Path | None,
    seconds: float,
    time_limit: float,
    threads: int | None,
) -> int:
    """Compile and run a fixed set of programs, compare them with references, and write one report.

    The set: a kernel by each of the target's recipes, onnx's light models with random weights, a model with control
    flow. Each has processes of its own; what fails or crashes is in the report like everything else. Exit with 1 if an
    item failed or differs, with 2, and no report, where this machine cannot do it at all.

    What is compiled on one machine (--prepare) can be run on another (--prepared), which then needs no compiler. Such a
    folder holds native code: run only what you trust.
    """
    if prepare and prepared:
        raise InputError("--prepare compiles only, and --prepared runs only.", "Give one of the two, or neither.")
    entries: list[dict[str, Any]] = []
    if prepared is not None:
        made_for, entries = selfcheck.prepared(prepared)
        if only or config or (target and target != made_for):
            raise InputError(
                f"{prepared} is compiled for {made_for} already.", "Leave --target, --config and --only out."
            )
        target = made_for
    target = target or "cpu"
    kind = target.partition(":")[0]
    steps = ["compile"] * (prepared is None) + ["run"] * (prepare is None)
    require(kind, *steps)
    check = selfcheck.Check(target, config, thread_count(threads), seconds, Limits(time_limit))
    with TemporaryDirectory(prefix="tilewright-") as own, output.progress(f"checking {target}") as say:
        folder = prepared or prepare or Path(own)
        if prepared is None:
            entries = selfcheck.prepare(check, selfcheck.chosen(check, only), folder, say)
        if prepare is None:
            entries = selfcheck.run(check, entries, folder, say)
            _write(report, check, kind, entries)
    output.result(
        {"target": target, "items": entries},
        table(["item", "state", "‖a-b‖/‖b‖", "ms", "why"], [_row(x) for x in entries], right=("‖a-b‖/‖b‖", "ms")),
    )
    if prepare is None:
        output.note(f"The report is in {report}.")
    return 0 if all(x["state"] in ("ok", "prepared") for x in entries) else 1


def _write(path: Path, check: selfcheck.Check, kind: str, entries: list[dict[str, Any]]) -> None:
    states = [x["state"] for x in entries]
    report = {
        "schema": 1,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "target": check.target,
        "threads": check.threads,
        "device": selfcheck.device(check),
        "system": platform.platform(),
        "versions": version_text(platform.python_version()).splitlines(),
        "doctor": [attrs.asdict(x) for x in findings(kind)],
        "counts": {x: states.count(x) for x in ("ok", "differs", "failed")},
        "items": entries,
    }
    with replacing(path) as stream:
        stream.write(json.dumps(report, indent=2).encode())


def _row(entry: dict[str, Any]) -> list[str]:
    told = entry.get("agreements", [])
    errors = [x["norm_error"] for x in told]
    worst = "" if not errors else "inf" if None in errors else f"{max(errors):.1e}"
    wrong = next((f"{x['name']}: {x['why']}" for x in told if not x["ok"]), "")
    why = f"{entry['stage']}: {entry['error']}" if "error" in entry else wrong
    median = entry.get("median_seconds")
    return [
        entry["item"],
        entry["state"],
        worst,
        "" if median is None else f"{median * 1e3:.3f}",
        why,
    ]
