"""Results of many sessions: merged, and as tables of medians and of means of ratios."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

Result = dict[str, Any]
OURS = "tilewright"
"""How the names of our engines begin."""
CUDNN_LSTM = "torch-cudnn-lstm"
"""`torch.nn.LSTM` instead of the graph: reported, not counted among the peers, for it is told what the graph is."""


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


def write_table(folders: Sequence[Path], out: Path, report: Callable[[Sequence[Result]], str]) -> list[Result]:
    """Writes `results.json` and `table.md` of all results below some folders, and prints the table.

    Args:
        report: the table's text.

    Returns:
        The results; without any, the program ends with an error.
    """
    results = merged(folders)
    if not results:
        raise SystemExit(f"no results in {', '.join(map(str, folders))}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1))
    text = report(results)
    (out / "table.md").write_text(text)
    sys.stdout.write(text)
    return results


def _age(path: Path) -> tuple[float, str]:
    return path.stat().st_mtime, str(path)


def by_environment(results: Sequence[Result]) -> Iterator[tuple[str, list[Result]]]:
    """A heading, and the results of one commit and environment."""

    def where(result: Result) -> tuple[str, str]:
        return result["commit"], json.dumps(result["environment"], sort_keys=True)

    for (commit, place), group in groupby(results, key=where):
        yield f"## {commit}\n\n{', '.join(f'{k} {v}' for k, v in json.loads(place).items())}\n", list(group)


def engines_of(results: Sequence[Result]) -> list[str]:
    """All engines, in the order of the results."""
    return list(dict.fromkeys(name for r in results for name in r["engines"]))


def measured_us(result: Result, engine: str) -> float | None:
    """Median in µs where the engine ran and agreed."""
    one = result["engines"].get(engine, {})
    return float(one["median_us"]) if one.get("agrees") else None


def medians(results: Sequence[Result]) -> str:
    """A row for each cell."""
    engines = engines_of(results)
    lines = ["Medians in µs.\n", "| cell | " + " | ".join(engines) + " |", "|---" * (1 + len(engines)) + "|"]
    for result in results:
        row = [result["cell"]]
        for engine in engines:
            one = result["engines"].get(engine, {})
            wrong = "" if one.get("agrees", True) else " (WRONG)"
            row.append(f"{one['median_us']:.1f}{wrong}" if "median_us" in one else "failed" if one else "–")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def means(results: Sequence[Result], group: Callable[[Result], str], what: str) -> str:
    """Geometric means of each of our engines over each peer; above 1 we are slower. Only cells where both agree.

    Args:
        group: of which there is a row.
        what: groups are, for the heading.
    """
    engines = engines_of(results)
    pairs = pairs_of(engines)
    lines = ["Geometric mean of the ratio, and cells; above 1 the first is slower.\n"]
    lines.append(line([what, *(f"{a} / {b}" for a, b in pairs)]))
    lines.append("|---" * (1 + len(pairs)) + "|")
    groups = [(x, [r for r in results if group(r) == x]) for x in sorted({group(r) for r in results})]
    for name, own in [*groups, ("all", list(results))]:
        row = [name]
        for a, b in pairs:
            ratios = [x / y for r in own if (x := measured_us(r, a)) and (y := measured_us(r, b))]
            row.append(f"{geometric_mean(ratios):.2f} ({len(ratios)})" if ratios else "–")
        lines.append(line(row))
    return "\n".join(lines) + "\n"


def geometric_mean(ratios: Sequence[float]) -> float:
    """Of at least one positive number."""
    return math.exp(statistics.fmean(map(math.log, ratios)))


def pairs_of(engines: Sequence[str]) -> list[tuple[str, str]]:
    """Each of our engines and each other one."""
    return [(a, b) for a in engines if a.startswith(OURS) for b in engines if a != b and not _later(engines, a, b)]


def _later(engines: Sequence[str], a: str, b: str) -> bool:
    """Whether a pair of our own engines stands in the table the other way round."""
    return b.startswith(OURS) and engines.index(b) < engines.index(a)


def line(row: Sequence[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(row) + " |"
