"""Pictures of what was planned, as SVG text."""

from __future__ import annotations

from tilewright.pictures.graph import Box, Edge, Graph, graph_of
from tilewright.pictures.svg import draw

__all__ = ["Box", "Edge", "Graph", "draw", "graph_of"]
