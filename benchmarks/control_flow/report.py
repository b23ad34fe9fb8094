"""Results as one table: medians, what was taken, speed against the fastest peer, and what control flow costs."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.control_flow.prepare import UNROLLED
from benchmarks.results import OURS, Result, by_environment, engines_of, geometric_mean, line, measured_us, medians


def report(results: Sequence[Result]) -> str:
    """Markdown, for each commit and environment."""
    parts = []
    for heading, own in by_environment(results):
        parts += [heading, medians(own), taken(own), _speeds(own), _overhead(own)]
    return "\n".join(x for x in parts if x)


def taken(results: Sequence[Result]) -> str:
    """Trips, branches and calls of a run of each cell."""
    rows = []
    for r in results:
        found = next((x["taken"] for x in r["engines"].values() if "taken" in x), "")
        if found:
            rows.append(line([r["cell"], found]))
    said = "What a run does: branches that take their first and their second side.\n"
    header = [said, line(["cell", "taken"]), "|---" * 2 + "|"]
    return "\n".join([*header, *rows]) + "\n" if rows else ""


def _engines(results: Sequence[Result]) -> tuple[list[str], list[str]]:
    """Ours with control flow, and the others."""
    every = engines_of(results)
    return [x for x in every if x.startswith(OURS) and x != UNROLLED], [x for x in every if not x.startswith(OURS)]


def _speeds(results: Sequence[Result]) -> str:
    """The time of the fastest peer over ours, by cell."""
    ours, peers = _engines(results)
    if not ours or not peers:
        return ""
    lines = ["Speed: the fastest peer's time over ours; above 1 we are faster.\n"]
    lines += [line(["cell", "fastest peer", *ours]), "|---" * (2 + len(ours)) + "|"]
    found: dict[str, list[float]] = {x: [] for x in ours}
    for r in results:
        times = {p: x for p in peers if (x := measured_us(r, p))}
        if not times:
            continue
        best = min(times, key=lambda p: times[p])
        row = [r["cell"], best]
        for engine in ours:
            mine = measured_us(r, engine)
            row.append(f"{times[best] / mine:.2f}" if mine else "–")
            found[engine] += [times[best] / mine] if mine else []
        lines.append(line(row))
    means = (f"{geometric_mean(x):.2f} ({len(x)})" if x else "–" for x in found.values())
    lines.append(line(["geometric mean", "", *means]))
    return "\n".join(lines) + "\n"


def _overhead(results: Sequence[Result]) -> str:
    """Our time over that of the straight program with the decisions known, by cell."""
    ours, _ = _engines(results)
    rows = []
    for r in results:
        bound = measured_us(r, UNROLLED)
        if bound:
            times = [measured_us(r, x) for x in ours]
            rows.append(line([r["cell"], *(f"{x / bound:.2f}" if x else "–" for x in times)]))
    header = ["Our time over that of the same run written out, without control flow.\n", line(["cell", *ours])]
    return "\n".join([*header, "|---" * (1 + len(ours)) + "|", *rows]) + "\n" if rows else ""
