"""What a table does not show, as SVG: predictions beside measurements, and our time over each peer's, sorted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.operators.report import predicted
from benchmarks.results import OURS, engines_of, measured_us, pairs_of

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "tilewright"  # equal results make equal files

from matplotlib import pyplot  # noqa: E402 - after the backend is chosen

Result = dict[str, Any]


def predictions(results: Sequence[Result], path: Path) -> None:
    """Predicted over measured time, both logarithmic: one group of points `predictions-ENGINE` for each engine."""
    figure, axes = pyplot.subplots(figsize=(6, 6))
    seen: list[float] = []
    for number, engine in enumerate(engines_of(results)):
        pairs = predicted(results, engine)
        if pairs:
            label = f"{engine} ({len(pairs)})"
            _points(axes, [m for _, m in pairs], [p for p, _ in pairs], number, label, f"predictions-{engine}")
            seen += [x for pair in pairs for x in pair]
    if seen:
        axes.plot([min(seen), max(seen)], [min(seen), max(seen)], color="0.6", linewidth=1, zorder=0)
        axes.legend()
    axes.set(xscale="log", yscale="log", xlabel="measured, µs", ylabel="predicted, µs")
    _save(figure, path)


def ratios(results: Sequence[Result], path: Path) -> None:
    """Our time over a peer's, sorted, a panel for each kind: points named `ratios-KIND-OURS-PEER` for each pair."""
    kinds = sorted({r["kind"] for r in results})
    pairs = [(a, b) for a, b in pairs_of(engines_of(results)) if not b.startswith(OURS)]
    columns = min(len(kinds), 4)
    rows = -(-len(kinds) // columns)
    figure, panels = pyplot.subplots(rows, columns, figsize=(4 * columns, 3 * rows + 1), squeeze=False)
    for axes in panels.flat[len(kinds) :]:
        axes.set_axis_off()
    for kind, axes in zip(kinds, panels.flat, strict=False):
        own = [r for r in results if r["kind"] == kind]
        for number, (a, b) in enumerate(pairs):
            found = sorted(x / y for r in own if (x := measured_us(r, a)) and (y := measured_us(r, b)))
            _points(axes, range(1, len(found) + 1), found, number, f"{a} / {b}", f"ratios-{kind}-{a}-{b}")
        axes.axhline(1, color="0.6", linewidth=1, zorder=0)
        axes.set(yscale="log", title=kind, xlabel="cells, sorted", ylabel="above 1 we are slower")
    if pairs:
        figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    _save(figure, path)


def _points(axes: Any, x: Sequence[float], y: Sequence[float], number: int, label: str, name: str) -> None:
    marker = "os^Dvx+*"[number % 8]
    axes.plot(x, y, marker, color=f"C{number % 10}", markersize=4, label=label, gid=name)


def _save(figure: Any, path: Path) -> None:
    figure.set_layout_engine("constrained")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
