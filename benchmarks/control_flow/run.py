"""`python -m benchmarks.control_flow.run`: says what cells do, measures them, merges the results.

A result's file is named by commit, environment and cell, so that several short sessions on a device make one table.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.control_flow.cells import FOLDER, Cell, cells
from benchmarks.control_flow.prepare import UNROLLED, prepared, run_of
from benchmarks.control_flow.report import report
from benchmarks.models.prepare import configurations
from benchmarks.results import OURS, line, write_table
from benchmarks.sessions import add_arguments, add_selection, chosen
from benchmarks.sessions import run as measure_cells

TORCH = ("torch-eager", "torch-compile", "torch-script")
ENGINES = {"cpu": (*TORCH, "onnxruntime"), "cuda": (*TORCH, "jax")}
"""Peers that are measured by default, beside our engines."""
OUT = Path("reports/control_flow")


def _taken(options: argparse.Namespace) -> int:
    """Prints trips, branches and calls of each cell; needs no device."""
    sys.stdout.write(f"{line(['cell', 'taken'])}\n|---|---|\n")
    for cell in chosen(cells(options.cells, options.small), options):
        sys.stdout.write(f"{line([cell.name, str(run_of(cell.given())[1])])}\n")
    return 0


def _run(options: argparse.Namespace) -> int:
    """Measures the cells that were asked for. 1 when one of our programs fails or disagrees."""
    configs = configurations(options.config)
    options.engines = options.engines or [OURS, *configs, UNROLLED, *ENGINES[options.target.partition(":")[0]]]
    ready = partial(
        prepared,
        engines=options.engines,
        configs=configs,
        target=options.target,
        threads=options.threads,
        jobs=options.jobs,
    )
    found = chosen(cells(options.cells, options.small), options)
    return measure_cells(found, options, ready, described, "benchmarks.control_flow.worker")


def described(cell: Cell) -> dict[str, Any]:
    """What a result says of its cell."""
    return asdict(cell)


def _merge(options: argparse.Namespace) -> int:
    write_table(options.folders, options.out, report)
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control_flow.run", description=__doc__)
    commands = parser.add_subparsers(required=True)
    takes = commands.add_parser("taken", help="say how many trips, branches and calls the cells have")
    add_selection(takes, FOLDER / "cells.csv")
    takes.set_defaults(command=_taken)
    runs = commands.add_parser("run", help="measure cells")
    add_selection(runs, FOLDER / "cells.csv")
    add_arguments(runs, OUT)
    help = "configuration of an engine tilewright-NAME, a TOML file; NAME is the file's without ending. May be repeated"
    runs.add_argument("--config", action="append", default=[], metavar="[NAME=]FILE", help=help)
    runs.set_defaults(command=_run)
    for one in (takes, runs):
        one.add_argument("--small", action="store_true", help="the models in the sizes for tests")
    joined = commands.add_parser("merge", help="make one table of several folders of results")
    joined.add_argument("folders", nargs="+", type=Path)
    joined.add_argument("--out", type=Path, default=OUT)
    joined.set_defaults(command=_merge)
    options = parser.parse_args()
    return int(options.command(options))


if __name__ == "__main__":
    sys.exit(main())
