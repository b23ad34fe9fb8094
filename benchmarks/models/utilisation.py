"""`python -m benchmarks.models.utilisation NAME=TRACE.json … --out FILE.svg`: multiprocessors at work, over time.

Traces are those that `tilewright explain --timeline FILE.json --measured` writes. Each becomes a panel of the picture;
all have the same axis of time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 900, 110, 50, 30, 46
"""Of a panel; where the first one begins; between two."""
_SLICES = 300
Curve = npt.NDArray[np.float64]


def busy(trace: Mapping[str, Any], slices: int, seconds: float | None = None) -> tuple[Curve, float, float]:
    """The share of multiprocessors that run a task in each slice of time; its mean; the microseconds of the trace.

    Args:
        trace: Chrome's form: a row (`tid`) for each multiprocessor, `ts` and `dur` in microseconds.
        seconds: microseconds that the slices divide; by default those of the trace.
    """
    rows: dict[int, list[tuple[float, float]]] = {}
    for x in trace["traceEvents"]:
        if x["ph"] == "X":
            rows.setdefault(x["tid"], []).append((x["ts"], x["ts"] + x["dur"]))
    units = sum(x["ph"] == "M" for x in trace["traceEvents"])
    end = max((last for spans in rows.values() for _, last in spans), default=0.0)
    edges = np.linspace(0.0, seconds or end, slices + 1)
    spent = np.zeros(slices)
    for spans in rows.values():
        for first, last in _joined(spans):
            spent += np.clip(np.minimum(edges[1:], last) - np.maximum(edges[:-1], first), 0.0, None)
    curve = spent / (edges[1] - edges[0]) / units
    return curve, float(spent.sum() / (end * units)), end


def _joined(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans in order, those that overlap as one: several units may stand on a multiprocessor."""
    found: list[tuple[float, float]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def draw(traces: Mapping[str, Mapping[str, Any]]) -> str:
    """The picture, SVG."""
    longest = max(busy(x, 1)[2] for x in traces.values())
    height = _TOP + len(traces) * (_HEIGHT + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 30}" height="{height}">',
        "<style>text { font: 11px monospace; fill: #222 }</style>",
        f'<rect width="{_LEFT + _WIDTH + 30}" height="{height}" fill="#fff"/>',
    ]
    for number, (name, trace) in enumerate(traces.items()):
        curve, mean, end = busy(trace, _SLICES, longest)
        top = _TOP + number * (_HEIGHT + _GAP)
        points = [(_LEFT + _WIDTH * i / _SLICES, top + _HEIGHT * (1 - x)) for i, x in enumerate(curve)]
        line = " ".join(f"{x:.1f},{y:.1f} {x + _WIDTH / _SLICES:.1f},{y:.1f}" for x, y in points)
        low = top + _HEIGHT
        parts += [
            f'<text x="{_LEFT}" y="{top - 8}">{escape(name)}: {end:.0f} µs, busy {mean:.0%} of the time</text>',
            f'<text x="8" y="{top + 8}">100%</text><text x="8" y="{low}">0%</text>',
            f'<polygon points="{_LEFT},{low} {line} {_LEFT + _WIDTH},{low}" fill="#6a9fd4"/>',
            f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>',
            f'<text x="{_LEFT}" y="{low + 14}">0</text>',
            f'<text x="{_LEFT + _WIDTH - 60}" y="{low + 14}">{longest:.0f} µs</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.utilisation", description=__doc__)
    parser.add_argument("traces", nargs="+", metavar="NAME=TRACE.json")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.svg")
    options = parser.parse_args()
    named = (x.rpartition("=") for x in options.traces)
    traces = {name or Path(path).stem: json.loads(Path(path).read_text()) for name, _, path in named}
    options.out.write_text(draw(traces))
    for name, trace in traces.items():
        _, mean, end = busy(trace, 1)
        sys.stdout.write(f"{name}: {end:.1f} µs, busy {mean:.0%} of the time\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
