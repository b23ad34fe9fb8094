"""The step of a program that ONNX's reference evaluator runs: nodes that Tilewright has no code for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.artifact import Artifact, Step
from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend.functions import plain_domain
from tilewright.frontend.partition.types import closed, described, dtype_in
from tilewright.frontend.reference import line, reference_node
from tilewright.frontend.source import restored
from tilewright.ir import dtypes
from tilewright.runtime.native import Array
from tilewright.runtime.stats import Stats

if TYPE_CHECKING:
    import onnx


class ReferenceStep:
    """Nodes that the reference evaluator runs, in their order. Values are arrays, lists of values, or None.

    Args:
        model: the nodes; its inputs and outputs are what the step takes and gives. Types are checked where it has them.
        weights: constants that the nodes read.

    Raises:
        UnsupportedError: the evaluator does not know an operator.
    """

    def __init__(self, model: onnx.ModelProto, weights: Mapping[str, Array], stats: Stats) -> None:
        graph = model.graph
        self._stats = stats
        opsets = {plain_domain(x.domain): x.version for x in model.opset_import}
        self._called = [f"{x.op_type} node {x.name or next(filter(None, x.output), '')!r}" for x in graph.node]
        self._nodes = [reference_node(x, opsets, model.functions) for x in graph.node]
        self._weights = weights
        self._inputs = _types(graph.input)
        self._outputs = _types(graph.output)
        last = {name: number for number, node in enumerate(self._nodes) for name in (*node.reads, *node.outputs)}
        self._dead = [
            [name for name in (*node.reads, *node.outputs) if last[name] == number and name not in self._outputs]
            for number, node in enumerate(self._nodes)
        ]

    def run(self, given: Sequence[Any]) -> list[Any]:
        """The step's outputs for its inputs.

        Raises:
            InputError: an input is not what the model declares.
            UnsupportedError: the evaluator fails, or gives what by ONNX's rules cannot be; names the node.
        """
        for (name, kind), found in zip(self._inputs.items(), given, strict=True):
            if not _fits(found, kind, name):
                raise InputError(
                    f"Input {name!r} is declared as {described(kind)} and was given {_shown(found)}.",
                    "Give an array of that type, or compile the model for another shape with --shape.",
                )
        values: dict[str, Any] = {**self._weights, **dict(zip(self._inputs, given, strict=True))}
        for node, what, dead in zip(self._nodes, self._called, self._dead, strict=True):
            try:
                made = node.run(values)
            except Exception as error:
                raise UnsupportedError(
                    f"ONNX's reference evaluator, which runs {what}, fails: {type(error).__name__}: {line(error)}.",
                    "The inputs do not fit, or the evaluator is incomplete for this node; rewrite it with others.",
                ) from error
            for name in made.keys() & self._outputs.keys():
                if not _fits(made[name], self._outputs[name], name):
                    raise UnsupportedError(
                        f"ONNX's reference evaluator gives {_shown(made[name])} as {name!r}, a result of {what}; "
                        f"by ONNX's rules it is {described(self._outputs[name])}.",
                        "The evaluator is wrong for this node; rewrite it with others.",
                    )
            values.update(made)
            for name in dead:
                values.pop(name, None)
        self._stats.reference_runs += 1
        return [values[name] for name in self._outputs]

    def close(self) -> None:
        """Frees nothing: there is nothing outside of Python."""


def _types(infos: Iterable[onnx.ValueInfoProto]) -> dict[str, onnx.TypeProto | None]:
    return {x.name: x.type if x.type.WhichOneof("value") is not None else None for x in infos}


def _fits(found: Any, kind: onnx.TypeProto | None, name: str) -> bool:
    """Whether a value is of a type, as far as that is a tensor of numbers."""
    dtype = None if kind is None else dtype_in(kind)
    if dtype is None:
        return True
    known = closed(kind, name)
    return (
        isinstance(found, np.ndarray)
        and found.dtype == dtypes.to_numpy(dtype)
        and (known is None or found.shape == known.static_shape())
    )


def _shown(found: Any) -> str:
    return f"{found.dtype}{list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__


def open_reference(step: Step, artifact: Artifact, stats: Stats) -> ReferenceStep:
    """The reference step of an artifact.

    Raises:
        ArtifactError: its model is damaged.
        InputError: the evaluator of the installed onnx does not know an operator of it.
    """
    assert step.model is not None
    source = restored(*artifact.model(step.model))
    return ReferenceStep(source.proto, source.weights, stats)
