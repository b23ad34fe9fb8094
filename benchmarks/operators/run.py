"""`python -m benchmarks.operators.run`: measures cells, one file of results each, and merges them into a table.

A result's file is named by commit, environment and cell, so that several short sessions on a device make one table.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.operators.cells import FILE, Cell, cells, work
from benchmarks.operators.prepare import prepared
from benchmarks.operators.report import report
from benchmarks.operators.tvm_engines import TRIALS
from benchmarks.results import write_table
from benchmarks.sessions import add_arguments, add_selection, chosen
from benchmarks.sessions import run as measure_cells

ENGINES = {
    "cpu": ("tilewright-roller", "tilewright-divisors", "onnxruntime"),
    "cuda": ("tilewright-roller", "tilewright-divisors", "torch-eager", "torch-compile"),
}


def run(options: argparse.Namespace) -> int:
    """Measures the cells that were asked for. 1 when one of our programs fails or disagrees."""
    ready = partial(
        prepared,
        engines=options.engines,
        target=options.target,
        threads=options.threads,
        jobs=options.jobs,
        trials=options.trials,
    )
    found = chosen(cells(options.cells), options)
    return measure_cells(found, options, ready, described, "benchmarks.operators.worker")


def described(cell: Cell) -> dict[str, Any]:
    """What a result says of its cell."""
    flops, moved = work(cell)
    what = {"suite": cell.suite, "kind": cell.kind, "dtype": cell.dtype, "shape": dict(cell.shape)}
    return {**what, "flops": flops, "bytes": moved}


def merge(options: argparse.Namespace) -> int:
    """Writes results.json, table.md, predictions.svg and ratios.svg of all results in some folders."""
    results = write_table(options.folders, options.out, partial(report, bandwidth=options.bandwidth))
    try:
        from benchmarks.operators import plots
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"table.md is written, but plots need {error.name}, which is not installed. "
            "Install the extra: pip install 'tilewright[benchmarks]'"
        ) from error
    plots.predictions(results, options.out / "predictions.svg")
    plots.ratios(results, options.out / "ratios.svg")
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operators.run", description=__doc__)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="measure cells")
    add_selection(runs, FILE)
    add_arguments(runs, Path("reports/operators"))
    runs.add_argument("--trials", type=int, default=TRIALS, help="schedules that tvm-metaschedule measures")
    runs.set_defaults(command=run)
    joined = commands.add_parser("merge", help="make one table of several folders of results")
    joined.add_argument("folders", nargs="+", type=Path)
    joined.add_argument("--out", type=Path, default=Path("reports/operators"))
    joined.add_argument("--bandwidth", type=float, metavar="GB/s", help="of copies: bytes read and written")
    joined.set_defaults(command=merge)
    options = parser.parse_args()
    if options.command is run:
        options.engines = options.engines or list(ENGINES[options.target.partition(":")[0]])
    return int(options.command(options))


if __name__ == "__main__":
    sys.exit(main())
