"""Results as one table: medians, ratios to each peer and to the fastest one, seconds to compile."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.results import (
    CUDNN_LSTM,
    OURS,
    Result,
    by_environment,
    engines_of,
    geometric_mean,
    line,
    means,
    measured_us,
    medians,
)


def report(results: Sequence[Result]) -> str:
    """Markdown: for each commit and environment medians, and geometric means by batch and dtype."""
    parts = []
    for heading, own in by_environment(results):
        parts += [heading, medians(own), means(own, group, "batch, dtype"), _fastest(own), _compilation(own)]
    return "\n".join(x for x in parts if x)


def group(result: Result) -> str:
    """What means are taken over."""
    return f"{result['batch']}, {result['dtype']}"


def _fastest(results: Sequence[Result]) -> str:
    """The time of the fastest peer over ours: above 1 we are faster, as papers have it."""
    ours = [x for x in engines_of(results) if x.startswith(OURS)]
    peers = [x for x in engines_of(results) if not x.startswith(OURS) and x != CUDNN_LSTM]
    reported = f" {CUDNN_LSTM} is reported, not counted." if CUDNN_LSTM in engines_of(results) else ""
    lines = [f"Speed: the fastest peer's time over ours, geometric mean and cells; above 1 we are faster.{reported}\n"]
    lines += [line(["batch, dtype", *ours]), "|---" * (1 + len(ours)) + "|"]
    for name in sorted({group(r) for r in results}):
        row = [name]
        for engine in ours:
            ratios = [
                min(theirs) / mine
                for r in results
                if group(r) == name
                and (mine := measured_us(r, engine))
                and (theirs := [x for p in peers if (x := measured_us(r, p))])
            ]
            row.append(f"{geometric_mean(ratios):.2f} ({len(ratios)})" if ratios else "–")
        lines.append(line(row))
    return "\n".join(lines) + "\n" if ours and peers else ""


def _compilation(results: Sequence[Result]) -> str:
    """Median and most seconds to compile, by engine. Programs of ours are compiled side by side."""
    rows = []
    for engine in engines_of(results):
        seconds = [x["compile_seconds"] for r in results if "compile_seconds" in (x := r["engines"].get(engine, {}))]
        if seconds:
            rows.append(line([engine, f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}", str(len(seconds))]))
    header = [line(["engine", "median s to compile", "most", "cells"]), "|---" * 4 + "|"]
    return "\n".join([*header, *rows]) + "\n" if rows else ""
