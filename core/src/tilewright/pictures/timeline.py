"""A timeline as SVG text: a row for each unit, a bar for what it runs, a colour for each kernel; and as a trace."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

from tilewright.pictures.svg import NOT_IN_XML
from tilewright.planning.timeline import Timeline

_WIDTH, _LEFT, _TOP, _ROW, _LEAST_ROW = 1400, 70, 60, 18, 3
"""Of the bars, of the names of units, of the heading; of a row, and of a row where there are many."""
_HIGH = 900
"""Of all rows together, at most, unless they would be lower than a row may be."""
_STYLE = """
text { font: 11px monospace; fill: #222 }
text.heading { font-size: 15px; font-weight: bold }
text.faint { fill: #777 }
rect.bar { stroke: #fff; stroke-width: 0.3 }
"""


def draw_timeline(timeline: Timeline, heading: str) -> str:
    """The picture. Equal timelines give equal text; each bar names its kernel, nodes and times when pointed at."""
    row = max(min(_ROW, _HIGH / max(timeline.units, 1)), _LEAST_ROW)
    scale = _WIDTH / max(timeline.seconds, 1e-12)
    height = _TOP + row * timeline.units + 40
    width = _LEFT + _WIDTH + 30
    colours = _colours([x.kernel for x in timeline.bars])
    said = f"{timeline.seconds * 1e6:.1f} µs, {timeline.units} units, busy {timeline.busy:.0%} of the time"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height:.0f}" fill="#fff"/>',
        f'<text class="heading" x="{_LEFT}" y="22">{_text(heading)}</text>',
        f'<text class="faint" x="{_LEFT}" y="42">{said}</text>',
    ]
    every = max(1, round(14 / row))
    parts += [
        f'<text class="faint" x="8" y="{_TOP + row * (unit + 0.5) + 4:.1f}">unit {unit}</text>'
        for unit in range(0, timeline.units, every)
    ]
    for bar in timeline.bars:
        x, long = _LEFT + bar.begin * scale, (bar.end - bar.begin) * scale
        told = f"{bar.kernel}\n{', '.join(bar.nodes)}\n{bar.begin * 1e6:.2f} to {bar.end * 1e6:.2f} µs"
        parts.append(
            f'<rect class="bar" x="{x:.2f}" y="{_TOP + row * bar.unit:.2f}" width="{long:.2f}" height="{row:.2f}" '
            f'fill="{colours[bar.kernel]}"><title>{_text(told)}</title></rect>'
        )
    low = _TOP + row * timeline.units + 16
    for i in range(11):
        x, micro = _LEFT + _WIDTH * i / 10, timeline.seconds * i / 10 * 1e6
        parts.append(f'<text class="faint" x="{x:.0f}" y="{low:.0f}">{micro:.1f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def chrome_trace(timeline: Timeline) -> dict[str, Any]:
    """The timeline in the form that Chrome's and Perfetto's viewers read: microseconds, a row for each unit."""
    rows = [
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": unit, "args": {"name": f"unit {unit}"}}
        for unit in range(timeline.units)
    ]
    bars = [
        {
            "name": bar.kernel,
            "cat": bar.launch,
            "ph": "X",
            "pid": 0,
            "tid": bar.unit,
            "ts": bar.begin * 1e6,
            "dur": (bar.end - bar.begin) * 1e6,
            "args": {"nodes": list(bar.nodes)},
        }
        for bar in timeline.bars
    ]
    return {"traceEvents": [*rows, *bars], "displayTimeUnit": "ns"}


def _colours(kernels: list[str]) -> dict[str, str]:
    """Colours whose hues lie apart by the golden angle, in the order of first use."""
    return {name: f"hsl({i * 137.508 % 360:.0f} 55% 62%)" for i, name in enumerate(dict.fromkeys(kernels))}


def _text(text: str) -> str:
    return escape(NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text))
