"""ONNX graphs by ONNX's reference evaluator, node by node, with control flow as the standard's text says.

The evaluator's own `Loop` and `Scan` know neither axes nor directions, join what they should stack, and fail where
there is no trip; so the operators inside are its work and the control around them is written out here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = npt.NDArray[Any]
Watch = Callable[[Array], None]


class Reference:
    """Evaluates models of one opset.

    Args:
        watch: called with every array that a node computes, inside of control flow too.
    """

    def __init__(self, opset: int, watch: Watch = lambda array: None) -> None:
        self._opset = opset
        self._watch = watch
        self._evaluators: dict[int, tuple[onnx.NodeProto, ReferenceEvaluator]] = {}

    def graph(self, graph: onnx.GraphProto, given: Mapping[str, Array]) -> list[Array]:
        """The outputs of a graph.

        Args:
            given: its inputs and, for a graph inside a node, what it may capture, by name.
        """
        values = {**given, **{x.name: numpy_helper.to_array(x) for x in graph.initializer}}
        for node in graph.node:
            found = self.node(node, values)
            values.update((name, array) for name, array in zip(node.output, found, strict=False) if name)
        return [values[x.name] for x in graph.output]

    def node(self, node: onnx.NodeProto, values: Mapping[str, Array]) -> list[Array]:
        """The outputs of a node, given every value in scope."""
        inputs = [values[name] if name else None for name in node.input]
        graphs = {x.name: x.g for x in node.attribute if x.type == onnx.AttributeProto.GRAPH}
        match node.op_type:
            case "If":
                branch = graphs["then_branch" if _scalar(inputs[0]) else "else_branch"]
                return self.graph(branch, values)
            case "Loop":
                return self._loop(graphs["body"], inputs, values)
            case "Scan":
                return self._scan(node, graphs["body"], [x for x in inputs if x is not None], values)
        # A sequence is a list, which stays one.
        found: list[Any] = [x if isinstance(x, list) else np.asarray(x) for x in self._plain(node, inputs)]
        for x in found:
            if not isinstance(x, list):
                self._watch(x)
        return found

    def _plain(self, node: onnx.NodeProto, inputs: Sequence[Array | None]) -> Any:
        # The node is kept with its evaluator, so that its identity names nothing else.
        _, evaluator = self._evaluators.setdefault(id(node), (node, self._evaluator(node)))
        named = {name: x for name, x in zip(node.input, inputs, strict=True) if x is not None}
        return evaluator.run(None, named)

    def _evaluator(self, node: onnx.NodeProto) -> ReferenceEvaluator:
        return ReferenceEvaluator(node, opsets={"": self._opset})

    def _loop(
        self, body: onnx.GraphProto, inputs: Sequence[Array | None], values: Mapping[str, Array]
    ) -> list[Array]:
        trip = inputs[0]
        condition = inputs[1] if len(inputs) > 1 else None
        states = [x for x in inputs[2:] if x is not None]
        going, number = condition is None or bool(_scalar(condition)), 0
        rows: list[list[Array]] = []
        while going and (trip is None or number < int(_scalar(trip))):
            on, *results = self.graph(body, _bound(body, values, [np.asarray(number), np.asarray(True), *states]))
            going, number = bool(_scalar(on)), number + 1
            states = results[: len(states)]
            rows.append(results[len(states) :])
        return [*states, *_stacked(body.output[1 + len(states) :], rows)]

    def _scan(
        self, node: onnx.NodeProto, body: onnx.GraphProto, inputs: Sequence[Array], values: Mapping[str, Array]
    ) -> list[Array]:
        attributes = {x.name: helper.get_attribute_value(x) for x in node.attribute}
        count = attributes["num_scan_inputs"]
        states, scanned = list(inputs[:-count]), inputs[-count:]
        axes = attributes.get("scan_input_axes", [0] * count)
        backwards = attributes.get("scan_input_directions", [0] * count)
        length = scanned[0].shape[axes[0]]
        rows: list[list[Array]] = []
        for number in range(length):
            places = [length - 1 - number if reverse else number for reverse in backwards]
            slices = [np.take(x, at, axis) for x, at, axis in zip(scanned, places, axes, strict=True)]
            results = self.graph(body, _bound(body, values, [*states, *slices]))
            states = results[: len(states)]
            rows.append(results[len(states) :])
        collected = _stacked(body.output[len(states) :], rows)
        targets = attributes.get("scan_output_axes", [0] * len(collected))
        reverses = attributes.get("scan_output_directions", [0] * len(collected))
        turned = [
            np.moveaxis(x[::-1] if reverse else x, 0, axis)
            for x, axis, reverse in zip(collected, targets, reverses, strict=True)
        ]
        return [*states, *turned]


def _bound(body: onnx.GraphProto, outer: Mapping[str, Array], given: Sequence[Array]) -> Mapping[str, Array]:
    """The values that a body may read: what is in scope, and its inputs."""
    return {**outer, **dict(zip((x.name for x in body.input), given, strict=True))}


def _stacked(kinds: Sequence[onnx.ValueInfoProto], rows: Sequence[Sequence[Array]]) -> list[Array]:
    """What the trips collected; where there were none, the declared types say of what there is nothing."""
    if rows:
        return [np.stack(column) for column in zip(*rows, strict=True)]
    found = []
    for kind in kinds:
        given = kind.type.tensor_type
        shape = [0, *(d.dim_value for d in given.shape.dim)]
        found.append(np.zeros(shape, helper.tensor_dtype_to_np_dtype(given.elem_type)))
    return found


def _scalar(x: Array | None) -> Any:
    assert x is not None
    return x.reshape(())[()]
