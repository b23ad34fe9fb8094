"""Results of many sessions as one table: medians, ratios, how well predictions rank, what a kernel costs to make."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.results import OURS, Result, by_environment, engines_of, line, means, measured_us, medians

_DECODE = 64
"""Most tokens of a decoding step; more are a prompt."""


def report(results: Sequence[Result], bandwidth: float | None = None) -> str:
    """Markdown: for each commit and environment a table of cells, and geometric means by suite and kind.

    Args:
        results: what `merged` gives.
        bandwidth: of copies on the device in GB/s; with it, the share that cells of decoding reach is said too.
    """
    parts = []
    for heading, own in by_environment(results):
        parts += [heading, medians(own), means(own, lambda r: f"{r['suite']}, {r['kind']}", "suite, kind")]
        parts += [_predictions(own), _compilation(own), _decoding(own, bandwidth)]
    return "\n".join(x for x in parts if x)


def _predictions(results: Sequence[Result]) -> str:
    """Predicted over measured time, and Spearman's rank correlation over the cells."""
    lines = []
    for engine in engines_of(results):
        pairs = predicted(results, engine)
        if len(pairs) < 3:
            continue
        ratios = [math.log(p / m) for p, m in pairs]
        lines.append(
            f"{engine}: predicted over measured {math.exp(statistics.fmean(ratios)):.2f} in geometric mean, a factor "
            f"of {math.exp(statistics.pstdev(ratios)):.2f} for one standard deviation, rank correlation "
            f"{rank_correlation([p for p, _ in pairs], [m for _, m in pairs]):.3f} over {len(pairs)} cells.\n"
        )
    return "\n".join(lines)


def predicted(results: Sequence[Result], engine: str) -> list[tuple[float, float]]:
    """Predicted and measured µs of an engine, for the cells where it predicts and agrees."""
    found = [r["engines"].get(engine, {}) for r in results]
    return [(x["predicted_us"], x["median_us"]) for x in found if x.get("agrees") and x.get("predicted_us")]


def _compilation(results: Sequence[Result]) -> str:
    """Median seconds to a kernel by engine, what 1000 trials would take a tuner, and these over ours for each cell."""
    engines = engines_of(results)
    ours = [x for x in engines if x.startswith(OURS)]
    header = ["engine", "seconds to a kernel", "cells", "seconds to 1000 trials"]
    header += [f"1000 trials / {x}" for x in ours]
    rows = []
    for engine in engines:
        seconds = _facts(results, engine, "compile_seconds")
        if not seconds:
            continue
        row = [engine, _seconds(statistics.median(seconds.values())), str(len(seconds))]
        tuned = _facts(results, engine, "seconds_to_1000_trials")
        row.append(f"{_seconds(statistics.median(tuned.values()))} ({len(tuned)})" if tuned else "–")
        for one in ours:
            own = _facts(results, one, "compile_seconds")
            factors = [x / own[i] for i, x in tuned.items() if i in own]
            row.append(f"{statistics.median(factors):.0f} ({len(factors)})" if factors else "–")
        rows.append(row)
    if not rows:
        return ""
    lines = ["Seconds to a kernel, medians over the cells (in brackets: how many).\n", line(header)]
    lines.append("|---" * len(header) + "|")
    return "\n".join([*lines, *map(line, rows)]) + "\n"


def _facts(results: Sequence[Result], engine: str, key: str) -> dict[int, float]:
    """A fact about an engine by the number of the result that has it."""
    return {i: float(one[key]) for i, r in enumerate(results) if key in (one := r["engines"].get(engine, {}))}


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def _decoding(results: Sequence[Result], bandwidth: float | None) -> str:
    """What share of the bandwidth products of a few tokens reach: bytes of operands and result over the time."""
    own = [r for r in results if r["suite"] == "llm" and int(r["shape"]["m"]) <= _DECODE]
    if bandwidth is None or not own:
        return ""
    engines = engines_of(own)
    lines = [f"Decoding: share of {bandwidth:g} GB/s.\n", line(["cell", *engines]), "|---" * (1 + len(engines)) + "|"]
    for result in own:
        least = result["bytes"] / (bandwidth * 1e3)  # µs: a GB/s is a thousand bytes in each
        times = [measured_us(result, x) for x in engines]
        lines.append(line([result["cell"], *(f"{least / x:.0%}" if x else "–" for x in times)]))
    return "\n".join(lines) + "\n"


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's coefficient; equal values share the mean of their ranks."""
    ranks = [_ranks(np.asarray(x, np.float64)) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse])
