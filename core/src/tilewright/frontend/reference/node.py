"""A node by ONNX's reference evaluator."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import RuntimeContextError

from tilewright.errors import UnsupportedError
from tilewright.frontend.functions import plain_domain
from tilewright.frontend.reference.corrected import CORRECTED
from tilewright.frontend.reference.names import graphs, reads
from tilewright.values import normal

_MISREAD = {"Softmax": 13, "LogSoftmax": 13, "Hardmax": 13}
"""Operators whose meaning before an opset the evaluator does not have; it takes the later one."""


class PlainNode:
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
        functions = list(functions)
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.domain = plain_domain(node.domain)
        self.reads = tuple(sorted(reads(copied)))
        self.outputs = tuple(copied.output)
        graph = onnx.GraphProto(name="node", node=[copied])
        graph.input.extend(onnx.ValueInfoProto(name=x) for x in self.reads)
        graph.output.extend(onnx.ValueInfoProto(name=x) for x in self.outputs if x)
        bodies = {(plain_domain(x.domain), x.name): x for x in functions}
        operators = _operators(copied, bodies)
        if operators & {"Loop", "Scan"}:
            name = _operator(copied)
            raise UnsupportedError(f"ONNX's reference evaluator is wrong about loops, and {name} holds one.")
        for name, since in _MISREAD.items():
            if name in operators and opsets.get("", since) < since:
                raise UnsupportedError(f"ONNX's reference evaluator is wrong about {name} before opset {since}.")
        try:
            self._evaluator = ReferenceEvaluator(
                graph, opsets=dict(opsets), functions=_callees_first(functions), new_ops=CORRECTED
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


def _operators(
    node: onnx.NodeProto, functions: Mapping[tuple[str, str], onnx.FunctionProto], seen: frozenset[str] = frozenset()
) -> set[str]:
    """The operators at a node, in its graphs and in the functions that it calls."""
    name = _operator(node)
    found = {name}
    called = functions.get((plain_domain(node.domain), node.op_type))
    inner = [x for graph in graphs(node) for x in graph.node]
    if called is not None and name not in seen:
        inner += called.node
    return found.union(*(_operators(x, functions, seen | {name}) for x in inner))


def line(error: BaseException) -> str:
    """What an exception says, in one line without a full stop."""
    return " ".join(str(error).split()).rstrip(".")
