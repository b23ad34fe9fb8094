"""What a node reads, graphs inside it included."""

from __future__ import annotations

from collections.abc import Iterable

import onnx


def reads(node: onnx.NodeProto) -> frozenset[str]:
    """What a node needs of the scope around it: its inputs and what the graphs inside it capture."""
    return frozenset(x for x in node.input if x) | captured(node)


def captured(node: onnx.NodeProto) -> frozenset[str]:
    """What the graphs inside a node read of the scope around them."""
    found: set[str] = set()
    for graph in graphs(node):
        defined = {x.name for x in (*graph.input, *graph.initializer)}
        for inner in graph.node:
            found |= reads(inner) - defined
            defined.update(inner.output)
        found |= {x.name for x in graph.output} - defined
    return frozenset(found)


def graphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    """The graphs inside a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
