"""States of a `Loop` that only grow: what each trip appends is collected, and joined behind the loop.

Such a state is read by nothing but the `Concat` that makes its successor. The loop that is left has states of fixed
shape, whatever the number of trips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import onnx

from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend import fold
from tilewright.frontend.reference import reads
from tilewright.frontend.regions import Regions
from tilewright.frontend.scope import Scope
from tilewright.ir.ops import Value

if TYPE_CHECKING:
    from tilewright.frontend.graph import Importer


@attrs.frozen
class Append:
    """A state that a trip appends to.

    Args:
        number: of the state.
        piece: name in the body of what is appended.
        axis: along which.
    """

    number: int
    piece: str
    axis: int


def appends(node: onnx.NodeProto) -> tuple[Append, ...]:
    """The states of a `Loop` that only grow."""
    body = fold.attribute(node, "body")
    makers = {x.output[0]: x for x in body.node if x.op_type == "Concat" and len(x.input) == 2}
    uses = Counter(name for x in body.node for name in (*x.input, *(reads(x) - set(x.input))))
    uses.update(x.name for x in body.output)
    found: list[Append] = []
    states = len(body.input) - 2
    for number, (before, after) in enumerate(zip(body.input[2:], body.output[1 : 1 + states], strict=False)):
        maker = makers.get(after.name)
        if maker is not None and maker.input[0] == before.name and uses[before.name] == uses[after.name] == 1:
            found.append(Append(number, maker.input[1], fold.attribute(maker, "axis")))
    return tuple(found)


def add_appending(
    importer: Importer, node: onnx.NodeProto, scope: Scope, what: str, grown: Sequence[Append]
) -> None:
    """Imports a `Loop` of which some states only grow; its outputs are bound in `scope`.

    Raises:
        RaggedError: what a state grows by has another shape in each trip.
        UnsupportedError: data decide how much a state grows, and it does not start empty, or not along its first
            dimension.
    """
    left = _collecting(node, grown)
    inner = Scope(scope.opsets, scope.used | set(left.output), scope.path, dict(scope.values), scope.attributes)
    inner.sequences.update(scope.sequences)
    importer.add(left, inner)
    for name in left.output:
        if name:
            scope.bind(name, inner.entry(name))
    joining = _Joining(importer, node, scope, what)
    for append in grown:
        name = node.output[append.number] if append.number < len(node.output) else ""
        if name:
            scope.bind(name, joining.joined(node.input[2 + append.number], name, append.axis))


def _collecting(node: onnx.NodeProto, grown: Sequence[Append]) -> onnx.NodeProto:
    """The loop without the states, which gives what they are made of row by row, under the names of its outputs."""
    gone = {x.number for x in grown}
    body = fold.attribute(node, "body")
    states = len(body.input) - 2
    outputs = [*node.output, *[""] * (len(body.output) - 1 - len(node.output))]
    made = onnx.NodeProto()
    made.CopyFrom(node)
    del made.input[2:], made.output[:]
    made.input.extend(x for n, x in enumerate(node.input[2:]) if n not in gone)
    made.output.extend(x for n, x in enumerate(outputs) if n not in gone)
    made.output.extend(outputs[x.number] for x in grown)
    graph = next(x for x in made.attribute if x.name == "body").g
    del graph.input[2:], graph.output[1:]
    graph.input.extend(x for n, x in enumerate(body.input[2:]) if n not in gone)
    graph.output.extend(x for n, x in enumerate(body.output[1:]) if n not in gone or n >= states)
    graph.output.extend(onnx.ValueInfoProto(name=x.piece) for x in grown)
    return made


@attrs.frozen
class _Joining(Regions):
    """What follows the loop."""

    def joined(self, start: str, rows_name: str, axis: int) -> Value:
        """The state at the end: the initial one, then what every trip appended."""
        initial = self.importer.find(start, self.scope, self.what)
        rows = self.importer.find(rows_name, self.scope, self.what)
        length = self.importer.lengths.pop(rows.name, None)
        count, *piece = rows.static_shape()
        if not -len(piece) <= axis < len(piece):
            raise InputError(f"A state of {self.what} grows along the axis {axis}, of {len(piece)}.")
        axis %= len(piece)
        if length is not None and axis:
            raise UnsupportedError(
                f"A state of {self.what} grows along its dimension {axis}, and data decide how far.",
                "Let it grow along the first dimension, or fix the number of trips when exporting.",
            )
        before = initial.static_shape()[axis]
        if length is not None and before:
            # Joining would read rows that no trip wrote.
            raise UnsupportedError(
                f"A state of {self.what} starts with an extent of {before} and grows as far as data say.",
                "Let it start empty, or fix the number of trips when exporting.",
            )
        if axis:
            order = [*range(1, axis + 1), 0, *range(axis + 1, rows.rank)]
            rows = self.emit("Transpose", [rows], "turned", perm=order)
        shape = [n * count if d == axis else n for d, n in enumerate(piece)]
        appended = self.emit("Reshape", [rows, self.int64(shape)], "appended", **self._allowing_zero(shape))
        result = self.emit("Concat", [initial, appended], "state", axis=axis) if before else appended
        if length is not None:
            many = piece[0] != 1
            self.importer.lengths[result.name] = (
                self.emit("Mul", [length, self.int64(piece[0])], "length") if many else length
            )
        return result

    def _allowing_zero(self, shape: Sequence[int]) -> dict[str, int]:
        return {"allowzero": 1} if 0 in shape and self.scope.opsets[""] >= 14 else {}
