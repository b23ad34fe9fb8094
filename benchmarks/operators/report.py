"""Results of many sessions as one table: medians, ratios, and how well predictions rank."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

Result = dict[str, Any]
_LEAD = "tilewright"


def merged(folders: Sequence[Path]) -> list[Result]:
    """All results below some folders. Of two with equal commit, environment and cell the newer file counts."""
    files = sorted((p for f in folders for p in f.rglob("*.json") if p.name != "results.json"), key=_age)
    found: dict[tuple[str, str, str], Result] = {}
    for path in files:
        content = json.loads(path.read_text())
        if "cell" in content:
            where = json.dumps(content["environment"], sort_keys=True)
            found[content["commit"], where, content["cell"]] = content
    return sorted(found.values(), key=lambda r: (r["commit"], json.dumps(r["environment"], sort_keys=True), r["cell"]))


def _age(path: Path) -> tuple[float, str]:
    return path.stat().st_mtime, str(path)


def report(results: Sequence[Result]) -> str:
    """Markdown: for each commit and environment a table of cells, and geometric means by suite and kind."""
    parts = []
    for (commit, where), group in groupby(
        results, key=lambda r: (r["commit"], json.dumps(r["environment"], sort_keys=True))
    ):
        own = list(group)
        parts.append(f"## {commit}\n\n{', '.join(f'{k} {v}' for k, v in json.loads(where).items())}\n")
        parts += [_cells(own), _means(own), _predictions(own)]
    return "\n".join(x for x in parts if x)


def _engines(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(name for r in results for name in r["engines"]))


def _right(result: Result, engine: str) -> float | None:
    """Median in µs where the engine ran and agreed."""
    one = result["engines"].get(engine, {})
    return float(one["median_us"]) if one.get("agrees") else None


def _cells(results: Sequence[Result]) -> str:
    engines = _engines(results)
    lines = ["Medians in µs.\n", "| cell | " + " | ".join(engines) + " |", "|---" * (1 + len(engines)) + "|"]
    for result in results:
        row = [result["cell"]]
        for engine in engines:
            one = result["engines"].get(engine, {})
            wrong = "" if one.get("agrees", True) else " (WRONG)"
            row.append(f"{one['median_us']:.1f}{wrong}" if "median_us" in one else "failed" if one else "–")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _means(results: Sequence[Result]) -> str:
    """Geometric means of each of our engines over each peer; above 1 we are slower. Only cells where both agree."""
    engines = _engines(results)
    pairs = [(a, b) for a in engines if a.startswith(_LEAD) for b in engines if a != b and not _later(engines, a, b)]
    groups = sorted({(r["suite"], r["kind"]) for r in results})
    lines = ["Geometric mean of the ratio, and cells; above 1 the first is slower.\n"]
    lines.append("| suite, kind | " + " | ".join(f"{a} / {b}" for a, b in pairs) + " |")
    lines.append("|---" * (1 + len(pairs)) + "|")
    for name, own in [
        *((f"{s}, {k}", [r for r in results if (r["suite"], r["kind"]) == (s, k)]) for s, k in groups),
        ("all", list(results)),
    ]:
        row = [name]
        for a, b in pairs:
            ratios = [x / y for r in own if (x := _right(r, a)) and (y := _right(r, b))]
            row.append(f"{math.exp(statistics.fmean(map(math.log, ratios))):.2f} ({len(ratios)})" if ratios else "–")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _later(engines: Sequence[str], a: str, b: str) -> bool:
    """Whether a pair of our own engines stands in the table the other way round."""
    return b.startswith(_LEAD) and engines.index(b) < engines.index(a)


def _predictions(results: Sequence[Result]) -> str:
    """Predicted over measured time, and Spearman's rank correlation over the cells."""
    lines = []
    for engine in _engines(results):
        pairs = [
            (one["predicted_us"], one["median_us"])
            for r in results
            if (one := r["engines"].get(engine, {})).get("agrees") and one.get("predicted_us")
        ]
        if len(pairs) < 3:
            continue
        ratios = [math.log(p / m) for p, m in pairs]
        lines.append(
            f"{engine}: predicted over measured {math.exp(statistics.fmean(ratios)):.2f} in geometric mean, a factor "
            f"of {math.exp(statistics.pstdev(ratios)):.2f} for one standard deviation, rank correlation "
            f"{rank_correlation([p for p, _ in pairs], [m for _, m in pairs]):.3f} over {len(pairs)} cells.\n"
        )
    return "\n".join(lines)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's coefficient; equal values share the mean of their ranks."""
    ranks = [_ranks(np.asarray(x, np.float64)) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse])
