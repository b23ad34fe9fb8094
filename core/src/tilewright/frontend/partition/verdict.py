"""What becomes of the nodes of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import attrs
import numpy.typing as npt
import onnx

from tilewright.errors import InputError
from tilewright.frontend.partition.types import Open
from tilewright.frontend.reference import graphs
from tilewright.frontend.source import Source

Array = npt.NDArray[Any]

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


@attrs.frozen
class Classification:
    """What becomes of a model's nodes, and what is known of its values.

    Args:
        source: the model; its own functions are expanded where that can be.
        verdicts: of each node that computes something, in their order.
        types: of inputs and results, as far as they are known.
        open: names of values that are not tensors of known shape and element type.
        constants: results that are known already, and weights.
        steerable: inputs that are small enough to be bound to their values.
        sequences: names of results that are sequences or optionals of the import.
        cut: names of results of compiled nodes that are cut to their length when the program that computes them ends.
    """

    source: Source
    verdicts: tuple[Verdict, ...]
    types: Mapping[str, onnx.TypeProto]
    open: Mapping[str, Open]
    constants: Mapping[str, Array]
    steerable: frozenset[str]
    sequences: frozenset[str] = frozenset()
    cut: frozenset[str] = frozenset()
