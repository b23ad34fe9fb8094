"""Control flow as ONNX's text has it, around nodes that the reference evaluator runs.

Values are of any kind: arrays, lists for sequences, None for empty optionals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tilewright.errors import UnsupportedError
from tilewright.frontend.functions import plain_domain
from tilewright.frontend.reference.names import reads
from tilewright.frontend.reference.node import PlainNode, line
from tilewright.values import normal

_OLDEST_SCAN = 9
"""Before, a `Scan` had a dimension of batches."""


class ReferenceNode(Protocol):
    """A node that can be run.

    Attributes:
        reads: names of what it needs.
        outputs: names of its outputs; empty where one is not wanted.
    """

    reads: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name, as `tilewright.values.normal` makes them, from what is in scope."""


def reference_node(
    node: onnx.NodeProto, opsets: Mapping[str, int], functions: Iterable[onnx.FunctionProto] = ()
) -> ReferenceNode:
    """What runs a node by the reference evaluator.

    Args:
        node: of ONNX's own domains, or a call of a function.
        opsets: version of each domain.
        functions: those of the model.

    Raises:
        UnsupportedError: the reference evaluator does not know the operator, or one inside the node.
    """
    control = _CONTROL.get(node.op_type) if plain_domain(node.domain) == "" else None
    return PlainNode(node, opsets, functions) if control is None else control(node, opsets, functions)


class _Body:
    """A graph inside a node."""

    def __init__(
        self, graph: onnx.GraphProto, opsets: Mapping[str, int], functions: Iterable[onnx.FunctionProto]
    ) -> None:
        self.outputs = tuple(graph.output)
        self._graph = graph
        self._nodes = [reference_node(x, opsets, functions) for x in graph.node]

    @cached_property
    def _weights(self) -> dict[str, Any]:
        return {x.name: normal(numpy_helper.to_array(x)) for x in self._graph.initializer}

    def run(self, scope: Mapping[str, Any], given: Sequence[Any]) -> list[Any]:
        """The outputs for inputs, and what is in scope around the graph."""
        inputs = zip((x.name for x in self._graph.input), given, strict=True)
        values = {**scope, **self._weights, **dict(inputs)}
        for node, proto in zip(self._nodes, self._graph.node, strict=True):
            try:
                values.update(node.run(values))
            except Exception as error:
                called = f"{proto.op_type} node {proto.name or next(filter(None, proto.output), '')!r}"
                raise RuntimeError(f"{called}: {type(error).__name__}: {line(error)}") from error
        return [values[x.name] for x in self.outputs]


class _Control(ABC):
    """What `If`, `Loop` and `Scan` have in common."""

    def __init__(
        self, node: onnx.NodeProto, opsets: Mapping[str, int], functions: Iterable[onnx.FunctionProto]
    ) -> None:
        self.reads = tuple(sorted(reads(node)))
        self.outputs = tuple(node.output)
        self._inputs = tuple(node.input)
        self._version = opsets.get("", onnx.defs.onnx_opset_version())
        self._attributes = {x.name: helper.get_attribute_value(x) for x in node.attribute}
        self._bodies = {
            x.name: _Body(x.g, opsets, functions) for x in node.attribute if x.type == onnx.AttributeProto.GRAPH
        }

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        scope = {name: values[name] for name in self.reads}
        found = self._run([scope.get(name) for name in self._inputs], scope)
        return {name: x for name, x in zip(self.outputs, found, strict=False) if name}

    @abstractmethod
    def _run(self, inputs: list[Any], scope: Mapping[str, Any]) -> list[Any]:
        """The outputs, from the inputs (None for one that is left out) and what is in scope."""


class _If(_Control):
    def _run(self, inputs: list[Any], scope: Mapping[str, Any]) -> list[Any]:
        return self._bodies["then_branch" if _truth(inputs[0]) else "else_branch"].run(scope, [])


class _Loop(_Control):
    def _run(self, inputs: list[Any], scope: Mapping[str, Any]) -> list[Any]:
        limit, condition, states = inputs[0], inputs[1] if len(inputs) > 1 else None, inputs[2:]
        body, count, number = self._bodies["body"], len(states), 0
        going = condition is None or _truth(condition)
        rows: list[list[Any]] = []
        while going and (limit is None or number < int(limit.reshape(()))):
            again, *results = body.run(scope, [np.asarray(number), np.asarray(True), *states])
            going, number = _truth(again), number + 1
            states = results[:count]
            rows.append(results[count:])
        return [*states, *_stacked(body.outputs[1 + count :], rows)]


class _Scan(_Control):
    def __init__(
        self, node: onnx.NodeProto, opsets: Mapping[str, int], functions: Iterable[onnx.FunctionProto]
    ) -> None:
        super().__init__(node, opsets, functions)
        if self._version < _OLDEST_SCAN:
            raise UnsupportedError(f"Scan before opset {_OLDEST_SCAN} cannot be run by ONNX's reference evaluator.")

    def _run(self, inputs: list[Any], scope: Mapping[str, Any]) -> list[Any]:
        count: int = self._attributes["num_scan_inputs"]
        body = self._bodies["body"]
        states, scanned = inputs[:-count], inputs[-count:]
        axes = self._attributes.get("scan_input_axes", [0] * count)
        backwards = self._attributes.get("scan_input_directions", [0] * count)
        length: int = scanned[0].shape[axes[0]]
        carried = len(states)
        rows: list[list[Any]] = []
        for number in range(length):
            places = [length - 1 - number if reverse else number for reverse in backwards]
            slices = [np.take(x, at, axis) for x, at, axis in zip(scanned, places, axes, strict=True)]
            results = body.run(scope, [*states, *slices])
            states = results[:carried]
            rows.append(results[carried:])
        collected = _stacked(body.outputs[carried:], rows)
        targets = self._attributes.get("scan_output_axes", [0] * len(collected))
        reverses = self._attributes.get("scan_output_directions", [0] * len(collected))
        turned = [
            normal(np.moveaxis(x[::-1] if reverse else x, 0, axis))
            for x, axis, reverse in zip(collected, targets, reverses, strict=True)
        ]
        return [*states, *turned]


_CONTROL: dict[str, type[_Control]] = {"If": _If, "Loop": _Loop, "Scan": _Scan}


def _truth(condition: Any) -> bool:
    return bool(np.asarray(condition).reshape(()))


def _stacked(kinds: Sequence[onnx.ValueInfoProto], rows: Sequence[Sequence[Any]]) -> list[Any]:
    """What the trips collected; where there were none, the declared types say of what there is nothing."""
    if rows:
        return [np.stack(column) for column in zip(*rows, strict=True)]
    found = []
    for kind in kinds:
        given = kind.type.tensor_type
        shape = [0, *(d.dim_value for d in given.shape.dim)]
        found.append(np.zeros(shape, helper.tensor_dtype_to_np_dtype(given.elem_type)))
    return found
