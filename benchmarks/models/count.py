"""Counts the launches of planned programs and the bytes of activations that cross their boundaries. Needs no device."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.models.cells import Cell
from benchmarks.models.graphs import graph
from benchmarks.models.traffic import Traffic, copies, traffic
from benchmarks.results import geometric_mean, line

COLUMNS = ("cell", "launches", "read", "written", "crossing", "weights", "copied")
"""Of a table of totals; all but the first two are bytes."""
KERNEL_COLUMNS = ("cell", "launch", "kernel", "read", "written", "crossing", "weights")
Row = dict[str, Any]


def counted(cell: Cell, target: str, config: Mapping[str, Any] | Path | None) -> tuple[Row, list[Row]]:
    """The totals of a cell planned for a target, and a row for each launch."""
    from tilewright.api import settings_for
    from tilewright.compiler import plan_model

    program = plan_model(graph(cell.model, cell.batch, cell.dtype, cell.small), settings_for(target, config)).program
    found = traffic(program)
    total: Row = {"cell": cell.name, "launches": len(found), **_bytes(found), "copied": copies(program)}
    return total, [{"cell": cell.name, "launch": x.name, "kernel": x.kernel, **_bytes([x])} for x in found]


def _bytes(found: Sequence[Traffic]) -> dict[str, int]:
    return {key: sum(getattr(x, key) for x in found) for key in ("read", "written", "crossing", "weights")}


def count(
    chosen: Sequence[Cell], target: str, config: Path | None, out: Path, kernels: Path | None, *, resume: bool
) -> None:
    """Writes the totals of cells to a table, beside those that it has of others, and perhaps a row for each launch.

    Args:
        resume: leave out the cells that the table has.
    """
    rows, launches = _read(out), _read(kernels) if kernels else []
    for number, cell in enumerate(chosen, 1):
        if resume and any(row["cell"] == cell.name for row in rows):
            continue
        start = time.perf_counter()
        total, each = counted(cell, target, config)
        rows = sorted([*(r for r in rows if r["cell"] != cell.name), total], key=lambda r: r["cell"])
        _write(out, COLUMNS, rows)
        if kernels:
            launches = [*(r for r in launches if r["cell"] != cell.name), *each]
            _write(kernels, KERNEL_COLUMNS, launches)
        said = f"{total['launches']} launches, {total['crossing'] / 1e6:.1f} MB"
        sys.stderr.write(f"{number}/{len(chosen)} {cell.name}: {said} ({time.perf_counter() - start:.0f} s)\n")


def compare(before: Path, after: Path) -> str:
    """Markdown: launches and crossing bytes of the cells that two tables have, and how much fewer there are after."""
    old = {row["cell"]: row for row in _read(before)}
    lines = [line(["cell", "launches", "before", "fewer", "MB crossing", "before", "fewer"]), "|---" * 7 + "|"]
    ratios: dict[str, list[float]] = {"launches": [], "crossing": []}
    for row in _read(after):
        known = old.get(row["cell"])
        if known is None:
            continue
        parts = [row["cell"]]
        for key, unit in (("launches", 1), ("crossing", 1e6)):
            ours, theirs = int(row[key]) / unit, int(known[key]) / unit
            ratios[key].append(ours / theirs)
            parts += [f"{ours:.4g}", f"{theirs:.4g}", f"{1 - ours / theirs:.0%}"]
        lines.append(line(parts))
    if not ratios["launches"]:
        raise SystemExit(f"{after} has no cell of {before}")
    launches, crossing = (1 - geometric_mean(ratios[key]) for key in ("launches", "crossing"))
    count = len(ratios["launches"])
    lines.append(f"\nIn geometric mean over {count} cells: launches −{launches:.0%}, bytes −{crossing:.0%}.")
    return "\n".join(lines) + "\n"


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def _write(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)
