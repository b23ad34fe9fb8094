"""What becomes of a node of the main graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs
import onnx

from tilewright.errors import InputError
from tilewright.frontend.reference import graphs

Where = Literal["native", "constant", "specialised", "reference", "unsupported"]


@attrs.frozen
class Verdict:
    """What becomes of a node of the main graph.

    Args:
        node: it.
        what: how errors call it.
        where: native: compiled. constant: computed while compiling. specialised: compiled when a run knows the shapes
            or values that are open now. reference: ONNX's reference evaluator. unsupported: nothing runs it.
        why: of all but the first two.
        steering: names of what it reads that must be known as values.
        open: names of what it reads whose shapes are not known before a run.
        error: of a node that is not native, what a compilation without further means says.
    """

    node: onnx.NodeProto
    what: str
    where: Where
    why: str = ""
    steering: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    error: InputError | None = attrs.field(default=None, eq=False)

    @property
    def inner(self) -> tuple[str, ...]:
        """How the nodes of its graphs are called, at any depth: they go where it goes."""
        return tuple(_inner(self.node))


def _inner(node: onnx.NodeProto) -> Iterator[str]:
    for graph in graphs(node):
        for x in graph.node:
            yield f"{x.op_type} node {x.name or next((y for y in x.output if y), '')!r}"
            yield from _inner(x)
