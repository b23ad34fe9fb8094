"""The graphs inside of a node, imported in its place or as regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import onnx

from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend.functions import names_used
from tilewright.frontend.scope import Entry, Scope
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

    def inline(self, graph: onnx.GraphProto, given: Sequence[Entry]) -> list[Entry]:
        """Imports the nodes of a graph here, with what its inputs stand for; returns what its results do."""
        if len(graph.input) != len(given):
            raise InputError(
                f"The body of {self.what} takes {len(graph.input)} inputs, it is given {len(given)}.",
                "Repair the model.",
            )
        scope = self.scope
        used = names_used(graph.node, (x.name for x in graph.output))
        path = f"{scope.path}{self.node.name or self.node.op_type}/"
        inner = Scope(scope.opsets, used, path, dict(scope.values), scope.attributes, dict(scope.sequences))
        for tensor in graph.initializer:
            data = to_array(tensor, self.importer.folder, f"A weight of {self.what}")
            inner.bind(tensor.name, self.importer.constant(tensor.name, data))
        for info, entry in zip(graph.input, given, strict=True):
            inner.bind(info.name, entry)
        for part in graph.node:
            self.importer.add(part, inner)
        results = [self._result(x.name, inner) for x in graph.output]
        self.importer.refuse_cut(flat(results), self.what)
        return results

    def _result(self, name: str, inner: Scope) -> Entry:
        if name in inner.sequences:
            return inner.sequences[name]
        if name in inner.values and inner.values[name] is None:
            raise UnsupportedError(
                f"The result {name!r} of a graph of {self.what} is an optional that is empty.", "Give it a value."
            )
        return self.importer.find(name, inner, self.what)

    def tensors(self, entries: Iterable[Entry]) -> tuple[Value, ...]:
        """Results of a graph that must be tensors."""
        found = tuple(entries)
        if any(not isinstance(x, Value) for x in found):
            raise UnsupportedError(
                f"A graph of {self.what} gives a sequence, of which it depends on data what is in it.",
                "Give its elements as results of their own, or let the number of trips be known.",
            )
        return found  # type: ignore[return-value]

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


def flat(entries: Iterable[Entry]) -> Iterator[Value]:
    """Every tensor among entries, those of sequences one by one."""
    for entry in entries:
        if isinstance(entry, tuple):
            yield from entry
        elif entry is not None:
            yield entry
