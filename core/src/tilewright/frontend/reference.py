"""ONNX's reference evaluator, a node at a time: for constant folding, and for what nothing else can run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun, RuntimeContextError

from tilewright.errors import UnsupportedError
from tilewright.frontend.functions import plain_domain
from tilewright.values import normal

_MISREAD = {"Softmax": 13, "LogSoftmax": 13, "Hardmax": 13}
"""Operators whose meaning before an opset the evaluator does not have; it takes the later one."""


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


class Optional(OpRun):
    """`Optional` as ONNX's text has it; the evaluator's puts the value into a list, which nothing takes off again."""

    op_domain = ""

    def _run(self, x: Any = None, type: Any = None) -> tuple[Any]:
        return (x,)

    def _check_and_fix_outputs(self, res: tuple[Any]) -> tuple[Any]:
        return res  # None is a result here


class ReferenceNode:
    """A node as the reference evaluator runs it.

    Args:
        node: of ONNX's own domains, or a call of a function.
        opsets: version of each domain.
        functions: those of the model.

    Raises:
        UnsupportedError: the reference evaluator does not know the operator, or one inside the node.
    """

    def __init__(
        self, node: onnx.NodeProto, opsets: Mapping[str, int], functions: Iterable[onnx.FunctionProto] = ()
    ) -> None:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.domain = plain_domain(node.domain)
        self.reads = tuple(sorted(reads(copied)))
        self.outputs = tuple(copied.output)
        graph = onnx.GraphProto(name="node", node=[copied])
        graph.input.extend(onnx.ValueInfoProto(name=x) for x in self.reads)
        graph.output.extend(onnx.ValueInfoProto(name=x) for x in self.outputs if x)
        operators = _operators(copied)
        for name, since in _MISREAD.items():
            if name in operators and opsets.get("", since) < since:
                raise UnsupportedError(f"ONNX's reference evaluator is wrong about {name} before opset {since}.")
        try:
            self._evaluator = ReferenceEvaluator(
                graph, opsets=dict(opsets), functions=_callees_first(functions), new_ops=[Optional]
            )
        except (NotImplementedError, RuntimeContextError, KeyError, RuntimeError) as error:
            raise UnsupportedError(
                f"ONNX's reference evaluator cannot run {_operator(copied)}: {line(error)}."
            ) from error

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name, as `normal` makes them. What the evaluator raises goes through."""
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._evaluator.run(None, {name: values[name] for name in self.reads})
        names = [x for x in self.outputs if x]
        return {name: normal(x) for name, x in zip(names, found, strict=True)}


def _callees_first(functions: Iterable[onnx.FunctionProto]) -> list[Any]:
    """The functions in an order in which each calls earlier ones only, as the evaluator wants them."""
    left = {(plain_domain(x.domain), x.name): x for x in functions}
    found: list[Any] = []
    while left:
        ready = [
            key
            for key, x in left.items()
            if not any((plain_domain(y.domain), y.op_type) in left.keys() - {key} for y in x.node)
        ]
        found += [left.pop(key) for key in ready or list(left)]
    return found


def _operator(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _operators(node: onnx.NodeProto) -> set[str]:
    found = {_operator(node)}
    for graph in graphs(node):
        found.update(*(_operators(x) for x in graph.node))
    return found


def line(error: BaseException) -> str:
    """What an exception says, in one line without a full stop."""
    return " ".join(str(error).split()).rstrip(".")
