"""The graphs inside of a node, imported in its place or as regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import onnx

from tilewright.errors import InputError
from tilewright.frontend.functions import names_used
from tilewright.frontend.scope import Scope
from tilewright.frontend.steering import OpenRegion
from tilewright.frontend.tensors import to_array
from tilewright.ir.ops import Location, Region, Value

if TYPE_CHECKING:
    from tilewright.frontend.graph import Importer


@attrs.frozen
class Regions:
    """One node that has graphs.

    Args:
        scope: where the node stands.
        what: how errors call it.
    """

    importer: Importer
    node: onnx.NodeProto
    scope: Scope
    what: str

    def inline(self, graph: onnx.GraphProto, given: Sequence[Value]) -> list[Value]:
        """Imports the nodes of a graph here, with values for its inputs; returns its results."""
        if len(graph.input) != len(given):
            raise InputError(
                f"The body of {self.what} takes {len(graph.input)} inputs, it is given {len(given)}.",
                "Repair the model.",
            )
        scope = self.scope
        used = names_used(graph.node, (x.name for x in graph.output))
        path = f"{scope.path}{self.node.name or self.node.op_type}/"
        inner = Scope(scope.opsets, used, path, dict(scope.values), scope.attributes)
        for tensor in graph.initializer:
            data = to_array(tensor, self.importer.folder, f"A weight of {self.what}")
            inner.values[tensor.name] = self.importer.constant(tensor.name, data)
        inner.values.update(zip((x.name for x in graph.input), given, strict=True))
        for part in graph.node:
            self.importer.add(part, inner)
        results = [self.importer.find(x.name, inner, self.what) for x in graph.output]
        self.importer.refuse_cut(results, self.what)
        return results

    def emit(self, op_type: str, inputs: Sequence[Value], hint: str, **attributes: Any) -> Value:
        """The result of one more node of ONNX's own."""
        names = [f"i{n}" for n in range(len(inputs))]
        made = onnx.helper.make_node(op_type, names, [hint], name=self.node.name, **attributes)
        inner = Scope(self.scope.opsets, frozenset({hint}), self.scope.path, dict(zip(names, inputs, strict=True)))
        self.importer.add(made, inner)
        return self.importer.find(hint, inner, self.what)

    def scalar(self, given: Value, hint: str) -> Value:
        """A value of one element as a scalar."""
        if given.rank == 0:
            return given
        if any(n != 1 for n in given.static_shape()):
            raise InputError(
                f"The {hint} of {self.what} has the shape {list(given.static_shape())}.", "It must be a scalar."
            )
        return self.emit("Reshape", [given, self.importer.constant("scalar", np.zeros(0, np.int64))], hint)

    def fresh(self, name: str, like: Value) -> Value:
        return attrs.evolve(like, name=self.importer.names.fresh(name))

    @property
    def loc(self) -> Location:
        return Location(self.scope.path + self.node.name, self.node.op_type, tuple(self.node.output))

    @property
    def given(self) -> list[Value]:
        """The node's inputs."""
        found = (self.scope.values.get(name) for name in self.node.input)
        return [x for x in found if x is not None]

    def int64(self, number: object) -> Value:
        return self.importer.constant("number", np.asarray(number, np.int64))

    def region(self, params: Sequence[Value], fill: Callable[[], Sequence[Value]]) -> Region:
        """A region of what `fill` imports; it returns the results."""
        outside, self.importer.ops = self.importer.ops, []
        self.importer.open.append(OpenRegion(outside, params, self.given))
        try:
            results = tuple(fill())
            return Region(tuple(params), tuple(self.importer.ops), results)
        finally:
            self.importer.ops = outside
            self.importer.open.pop()
