"""A graph of kernels as SVG text: boxes in layers, edges with their bytes, and what is welded inside of boxes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from tilewright.pictures.graph import Box, Edge, Graph, Inner
from tilewright.pictures.layout import Link, grid_of
from tilewright.pictures.routes import Route, apart, routed
from tilewright.sizes import size_text

WIDTH = 340
"""Of a box."""
_LINE, _PAD, _ARC, _MARGIN, _LETTER = 14, 9, 6, 24, 6.7
"""A line of text, the space around text, the distance of arcs, the picture's margin, the width of a letter."""
_HEADING, _WORDS = 50, 860
"""Height and least width of the heading."""
_COLOURS = {"register": "#00805a", "shared": "#d05a00", "global": "#c01030"}
"""Of what passes inside a kernel, by level."""
_STYLE = """
text { font: 11px monospace; fill: #222 }
text.name { font-weight: bold }
text.heading { font-size: 15px; font-weight: bold }
text.faint { fill: #777 }
text.input { fill: #1060c0 }
text.output { fill: #8020a0 }
text.scope { fill: #777; font-style: italic }
text.bytes { font-size: 10px; fill: #456; stroke: #fff; stroke-width: 3px; paint-order: stroke }
.kernel rect { fill: #f7f9fc; stroke: #456 }
.kernel rect.ends { stroke-width: 2.5 }
.kernel rect.time { fill: #e8a33d; stroke: none }
.kernel rect.call { stroke-dasharray: 5 3 }
.edge path { fill: none; stroke: #456; marker-end: url(#arrow) }
.edge.carried path { stroke-dasharray: 5 3 }
.inner { fill: none; stroke-width: 1.5 }
"""
_ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#456"/></marker></defs>'
)
NOT_IN_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_Line = tuple[str, str, str, str]
"""A line of text in a box: its class, the text at the left, the text at the right, that one's colour."""


def draw(graph: Graph, heading: str) -> str:
    """The picture. Equal graphs give equal text."""
    contents = [_lines(box) for box in graph.boxes]
    links = [Link(x.source, x.target, x.carried) for x in graph.edges]
    heights = [len(lines) * _LINE + 2 * _PAD for lines in contents]
    drawing = routed(grid_of(len(graph.boxes), links), links, WIDTH, heights)
    width, height = max(drawing.width, _WORDS) + 2 * _MARGIN, drawing.height + 2 * _MARGIN + _HEADING
    longest = max((box.seconds for box in graph.boxes), default=0.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<style>{_STYLE}</style>",
        _ARROW,
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *_heading(graph, heading),
        f'<g transform="translate({_MARGIN} {_MARGIN + _HEADING})">',
        *map(_edge, graph.edges, drawing.routes),
        *(
            _box(i, box, lines, corner, longest)
            for i, (box, lines, corner) in enumerate(zip(graph.boxes, contents, drawing.corners, strict=True))
        ),
        *map(_bytes, graph.edges, drawing.routes),
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _heading(graph: Graph, heading: str) -> list[str]:
    """What the picture is of, and what colours mean."""
    kernels = [box for box in graph.boxes if box.kernel]
    seconds, between = sum(box.seconds for box in kernels), sum(edge.bytes for edge in graph.edges)
    once = " with each kernel once" if any(box.scopes for box in kernels) else ""
    said = f"{len(kernels)} kernels, {_time(seconds)} predicted{once}, {size_text(between)} read from other kernels"
    key = [
        ("faint", "", "orange: time, as a share of the longest"),
        ("input", "", "model inputs"),
        ("output", "", "model outputs"),
        *(("", colour, f"kept at level {level}") for level, colour in _COLOURS.items()),
    ]
    x, texts = _MARGIN, [_text("heading", _MARGIN, 24, heading), _text("", _MARGIN, 42, said)]
    for kind, colour, text in key:
        texts.append(_text(kind, x, 60, text, colour=colour))
        x += int((len(text) + 2) * _LETTER)
    return texts


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs"


def _said_of(box: Box) -> str:
    """Recipe and kernel, of which the recipe is not cut."""
    room = int((WIDTH - 2 * _PAD) / _LETTER) - len(_time(box.seconds)) - len(box.recipe) - 2
    return f"{box.recipe} {_short(box.kernel, max(room, 8))}"


def _lines(box: Box) -> list[_Line]:
    """What a box says, from top to bottom."""
    if box.kernel:
        lines = [("name", box.name, "", ""), ("faint", _said_of(box), _time(box.seconds), "")]
    else:
        lines = [("name", f"call of {box.name}", "", "")]
    lines += [("scope", x, "", "") for x in box.scopes]
    lines += [("input", f"reads {x.name}", size_text(x.bytes), "") for x in box.inputs]
    lines += [("faint", "weights", size_text(box.weights), "")] if box.weights else []
    for i, operator in enumerate(box.operators):
        kept = [x for x in box.inner if x.source == i]
        right = f"{kept[0].level} {size_text(kept[0].bytes)}" if kept else ""
        colour = _COLOURS[kept[0].level] if kept else ""
        lines.append(("operator", f"{operator.kind} {operator.name}".rstrip(), right, colour))
    lines += [("output", f"makes {x.name}", size_text(x.bytes), "") for x in box.outputs]
    return lines


def _box(number: int, box: Box, lines: Sequence[_Line], corner: tuple[int, int], longest: float) -> str:
    x, y = corner
    height = len(lines) * _LINE + 2 * _PAD
    ends = "ends" if box.inputs or box.outputs else ""
    told = [box.name, *(" ".join(filter(None, line[1:3])) for line in lines[1:]), *box.why]
    parts = [
        f'<g class="kernel" id="kernel-{number}" transform="translate({x} {y})">',
        f"<title>{_safe(chr(10).join(told))}</title>",
        f'<rect class="{"" if box.kernel else "call "}{ends}" width="{WIDTH}" height="{height}" rx="4"/>',
    ]
    if longest and box.seconds:
        parts.append(f'<rect class="time" y="2" x="2" width="{(WIDTH - 4) * box.seconds / longest:.1f}" height="4"/>')
    arcs = _arcs(box.inner)
    indent = _PAD + _ARC * (max(arcs, default=-1) + 1)
    first = next((i for i, line in enumerate(lines) if line[0] == "operator"), 0)
    for i, (kind, left, right, colour) in enumerate(lines):
        start, base = indent if kind == "operator" else _PAD, _PAD + _LINE * (i + 1) - 3
        room = int((WIDTH - _PAD - start) / _LETTER) - len(right) - (1 if right else 0)
        parts.append(_text(kind, start, base, _short(left, room)))
        if right:
            parts.append(_text(kind, WIDTH - _PAD, base, right, "end", colour))
    for inner, lane in zip(box.inner, arcs, strict=True):
        top, bottom = (_PAD + _LINE * (first + x) + _LINE // 2 for x in (inner.source, inner.target))
        out = indent - 2 - _ARC * (lane + 1)
        parts.append(
            f'<path class="inner {inner.level}" data-bytes="{inner.bytes}" stroke="{_COLOURS[inner.level]}" '
            f'd="M{indent - 2} {top + 2}H{out}V{bottom - 2}H{indent - 2}"/>'
        )
    return "\n".join([*parts, "</g>"])


def _arcs(inner: Sequence[Inner]) -> list[int]:
    """The lane of each arc at the left of the operators."""
    lanes = apart({i: (2 * x.source + 1, 2 * x.target) for i, x in enumerate(inner)}, 0)
    return [lanes[i] for i in range(len(inner))]


def _edge(edge: Edge, route: Route) -> str:
    (x, y), *rest = route.points
    way = f"M{x} {y}" + "".join(f"L{a} {b}" for a, b in rest)
    values = "\n".join(f"{x.name}: {size_text(x.bytes)}" for x in edge.values)
    return (
        f'<g class="edge{" carried" if edge.carried else ""}" data-source="{edge.source}" data-target="{edge.target}" '
        f'data-bytes="{edge.bytes}"><title>{_safe(values)}</title><path d="{way}"/></g>'
    )


def _bytes(edge: Edge, route: Route) -> str:
    """The label of an edge, over everything else."""
    x, y = route.label
    return _text("bytes", x, y, size_text(edge.bytes), "end" if route.left else "start")


def _text(kind: str, x: float, y: float, text: str, anchor: str = "", colour: str = "") -> str:
    named = f" class={quoteattr(kind)}" if kind else ""
    placed = f' text-anchor="{anchor}"' if anchor == "end" else ""
    styled = f' style="fill: {colour}"' if colour else ""
    return f'<text{named} x="{x}" y="{y}"{placed}{styled}>{_safe(text)}</text>'


def _short(text: str, room: int) -> str:
    """The text, without its middle where it is too long: names of operators differ at the end."""
    if len(text) <= room:
        return text
    end = max(room, 2) * 2 // 3
    return f"{text[: max(room - end - 1, 0)]}…{text[len(text) - end :]}"


def _safe(text: str) -> str:
    return escape(NOT_IN_XML.sub("\ufffd", text))
