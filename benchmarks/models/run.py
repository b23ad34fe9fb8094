"""`python -m benchmarks.models.run`: counts kernels and bytes of models, measures and writes them, merges the results.

A result's file is named by commit, environment and cell, so that several short sessions on a device make one table.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from benchmarks.models.cells import FOLDER, Cell, cells
from benchmarks.models.count import compare, count
from benchmarks.models.graphs import graph
from benchmarks.models.prepare import configurations, prepared
from benchmarks.models.report import report
from benchmarks.results import OURS, write_table
from benchmarks.sessions import add_arguments, add_selection, chosen
from benchmarks.sessions import run as measure_cells

ENGINES = {"cpu": ("onnxruntime",), "cuda": ("torch-eager", "torch-compile")}
"""Peers that are measured by default, beside our engines."""
OUT = Path("reports/models")


def _count(options: argparse.Namespace) -> int:
    found = chosen(cells(options.cells, options.small), options)
    count(found, options.target, options.config, options.out, options.kernels, resume=options.resume)
    return 0


def _compare(options: argparse.Namespace) -> int:
    sys.stdout.write(compare(options.before, options.after))
    return 0


def _run(options: argparse.Namespace) -> int:
    """Measures the cells that were asked for. 1 when one of our programs fails or disagrees."""
    configs = configurations(options.config)
    options.engines = options.engines or [OURS, *configs, *ENGINES[options.target.partition(":")[0]]]
    ready = partial(
        prepared,
        engines=options.engines,
        configs=configs,
        target=options.target,
        threads=options.threads,
        jobs=options.jobs,
    )
    found = chosen(cells(options.cells, options.small), options)
    return measure_cells(found, options, ready, described, "benchmarks.models.worker")


def _write(options: argparse.Namespace) -> int:
    """Writes the graphs of cells, for other commands."""
    options.out.mkdir(parents=True, exist_ok=True)
    for cell in chosen(cells(options.cells, options.small), options):
        onnx.save(graph(cell.model, cell.batch, cell.dtype, cell.small), options.out / f"{cell.name}.onnx")
        sys.stdout.write(f"{options.out / cell.name}.onnx\n")
    return 0


def described(cell: Cell) -> dict[str, Any]:
    """What a result says of its cell."""
    return asdict(cell)


def _merge(options: argparse.Namespace) -> int:
    write_table(options.folders, options.out, report)
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.run", description=__doc__)
    commands = parser.add_subparsers(required=True)
    counts = commands.add_parser("count", help="plan cells and count launches and bytes; needs no device")
    add_selection(counts, FOLDER / "paper.csv")
    counts.add_argument("--config", type=Path, help="configuration, a TOML file: slots and options")
    counts.add_argument("--out", type=Path, required=True, help="table of totals, CSV")
    counts.add_argument("--kernels", type=Path, help="table of all launches, CSV")
    counts.set_defaults(command=_count)
    compares = commands.add_parser("compare", help="say how two tables of totals differ")
    compares.add_argument("before", type=Path)
    compares.add_argument("after", type=Path)
    compares.set_defaults(command=_compare)
    runs = commands.add_parser("run", help="measure cells")
    add_selection(runs, FOLDER / "anchors.csv")
    add_arguments(runs, OUT)
    help = "configuration of an engine tilewright-NAME, a TOML file; NAME is the file's without ending. May be repeated"
    runs.add_argument("--config", action="append", default=[], metavar="[NAME=]FILE", help=help)
    runs.set_defaults(command=_run)
    writes = commands.add_parser("write", help="write cells as ONNX files, FOLDER/CELL.onnx")
    add_selection(writes, FOLDER / "anchors.csv")
    writes.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    writes.set_defaults(command=_write)
    for one in (counts, runs, writes):
        one.add_argument("--small", action="store_true", help="the models in the sizes for tests")
    joined = commands.add_parser("merge", help="make one table of several folders of results")
    joined.add_argument("folders", nargs="+", type=Path)
    joined.add_argument("--out", type=Path, default=OUT)
    joined.set_defaults(command=_merge)
    options = parser.parse_args()
    return int(options.command(options))


if __name__ == "__main__":
    sys.exit(main())
