"""Pictures of what was planned, as SVG text."""

from __future__ import annotations

from tilewright.pictures.graph import Box, Edge, Graph, graph_of
from tilewright.pictures.svg import draw
from tilewright.pictures.timeline import chrome_trace, draw_timeline

__all__ = ["Box", "Edge", "Graph", "chrome_trace", "draw", "draw_timeline", "graph_of"]
