"""Sequences and optionals, as far as their lengths and presence are known: then nothing of them is left when it runs.

A sequence is a tuple of values in the scope, and an optional is what it holds, or None. Which element is meant must be
known at compile time; a loop that carries a sequence is written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np
import onnx

from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend import fold
from tilewright.frontend.loops import Loops
from tilewright.frontend.reference import captured
from tilewright.frontend.regions import Regions
from tilewright.frontend.scope import Entry, Scope
from tilewright.ir.ops import Value

if TYPE_CHECKING:
    from tilewright.frontend.graph import Importer

OPERATORS = frozenset(
    {
        "ConcatFromSequence",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SequenceMap",
        "SplitToSequence",
    }
)

_CHOICE_OF_ZERO = 14
"""Opset from which on a `Reshape` can give an extent of 0."""


def takes_sequences(node: onnx.NodeProto, scope: Scope) -> bool:
    """Whether a node of ONNX's own is about sequences or optionals: by what it is, or by what it reads."""
    inside = captured(node) if node.op_type == "Loop" and scope.sequences else ()
    return node.op_type in OPERATORS or any(name in scope.sequences for name in (*node.input, *inside))


def add_sequences(importer: Importer, node: onnx.NodeProto, scope: Scope, what: str) -> None:
    """Imports a node that takes or gives sequences or optionals; its outputs are bound in `scope`.

    Raises:
        InputError: the node does not fit its inputs.
        UnsupportedError: a length or a position is not known at compile time.
    """
    if node.op_type == "Loop":
        outputs: Sequence[Entry] = Loops(importer, node, scope, what).over_sequences(_entries(node, scope))
    else:
        outputs = _Sequences(importer, node, scope, what).outputs()
    for name, found in zip(node.output, outputs, strict=False):
        if name:
            scope.bind(name, found)


def _entries(node: onnx.NodeProto, scope: Scope) -> list[Entry]:
    return [scope.entry(name) for name in node.input]


@attrs.frozen
class _Sequences(Regions):
    """One node, but no loop."""

    def outputs(self) -> Sequence[Entry]:
        """What the node gives."""
        given = _entries(self.node, self.scope)
        match self.node.op_type:
            case "Identity" | "Optional":
                return [given[0] if given else None]
            case "OptionalHasElement":
                return [self.importer.constant("present", np.asarray(bool(given) and given[0] is not None))]
            case "OptionalGetElement":
                if given[0] is None:
                    raise InputError(f"{self.what} takes the element of an optional that is empty.")
                return given[:1]
            case "SequenceEmpty":
                return [()]
            case "SequenceConstruct":
                return [tuple(self._tensor(n) for n in range(len(given)))]
            case "SequenceInsert":
                items = self._sequence(0)
                at = self._place(len(items))
                return [(*items[:at], self._tensor(1), *items[at:])]
            case "SequenceErase":
                items = self._sequence(0)
                at = self._position(1, len(items), len(items) - 1)
                return [(*items[:at], *items[at + 1 :])]
            case "SequenceAt":
                items = self._sequence(0)
                return [items[self._position(1, len(items), 0)]]
            case "SequenceLength":
                return [self.int64(len(self._sequence(0)))]
            case "SplitToSequence":
                return [self._split(self._tensor(0))]
            case "ConcatFromSequence":
                return [self._concatenated(self._sequence(0))]
            case "SequenceMap":
                return self._map(given)
        raise UnsupportedError(
            f"{self.what} reads a sequence, for which it has no meaning.", "Pass its elements on as tensors."
        )

    # Operands.

    def _sequence(self, position: int) -> tuple[Value, ...]:
        found = self.scope.entry(self.node.input[position])
        if not isinstance(found, tuple):
            raise InputError(f"Input {position} of {self.what} is no sequence.", "Repair the model.")
        return found

    def _tensor(self, position: int) -> Value:
        name = self.node.input[position]
        if name in self.scope.sequences:
            raise UnsupportedError(f"Input {position} of {self.what} is a sequence, of which none is made.")
        found = self.importer.find(name, self.scope, self.what)
        self.importer.refuse_cut([found], self.what)
        return found

    def _known(self, position: int) -> fold.Array | None:
        """An operand that has to be known; None when it is left out."""
        if position >= len(self.node.input) or not self.node.input[position]:
            return None
        given = self._tensor(position)
        known = self.importer.data(given)
        if known is None:
            raise self.importer.needed(
                f"Input {position} of {self.what} decides which elements a sequence has, and is not known.",
                "Make it a constant of the model.",
                [given],
            )
        return known

    def _position(self, position: int, count: int, default: int) -> int:
        """A place in a sequence: the operand's value, from 0 to `count - 1`."""
        known = self._known(position)
        at = default if known is None else int(known.reshape(()))
        if not -count <= at < count:
            raise InputError(f"{self.what} is given the position {at}, of {count}.", "Repair the model.")
        return at % count

    def _place(self, count: int) -> int:
        """Where `SequenceInsert` puts its element: from 0 to `count`, which is behind the last one."""
        known = self._known(2)
        at = count if known is None else int(known.reshape(()))
        if not -count <= at <= count:
            raise InputError(f"{self.what} is given the position {at}, of {count}.", "Repair the model.")
        return at if at >= 0 else at + count

    # Operators.

    def _split(self, x: Value) -> tuple[Value, ...]:
        known = self._known(1)
        axis = self._axis(x.rank)
        extent = x.static_shape()[axis]
        if known is None:
            sizes = [1] * extent
        elif known.ndim == 0:
            sizes = [min(int(known), extent - start) for start in range(0, extent, int(known))]
        else:
            sizes = [int(n) for n in known]
        if sum(sizes) != extent or any(n < 0 for n in sizes):
            raise InputError(f"{self.what} splits an extent of {extent} into {sizes}.", "Repair the model.")
        parts: list[Value] = []
        for size, start in zip(sizes, np.cumsum([0, *sizes]).tolist(), strict=False):
            bounds = [self.int64([n]) for n in (start, start + size, axis)]
            part = self.emit("Slice", [x, *bounds], "part")
            if known is None and not fold.attribute(self.node, "keepdims", 1):
                part = self._reshaped(part, [n for d, n in enumerate(part.static_shape()) if d != axis])
            parts.append(part)
        return tuple(parts)

    def _concatenated(self, items: Sequence[Value]) -> Value:
        if not items:
            raise InputError(f"{self.what} joins an empty sequence.", "Give it an element.")
        rank = items[0].rank
        if not fold.attribute(self.node, "new_axis", 0):
            return self.emit("Concat", items, "joined", axis=self._axis(rank))
        axis = self._axis(rank + 1)
        shapes = [list(x.static_shape()) for x in items]
        rows = [self._reshaped(x, [*s[:axis], 1, *s[axis:]]) for x, s in zip(items, shapes, strict=True)]
        return self.emit("Concat", rows, "joined", axis=axis)

    def _axis(self, rank: int) -> int:
        axis = int(fold.attribute(self.node, "axis", 0))
        if not -rank <= axis < rank:
            raise InputError(f"{self.what} has the axis {axis} for {rank} dimensions.", "Repair the model.")
        return axis % rank

    def _reshaped(self, x: Value, shape: Sequence[int]) -> Value:
        # A 0 was an extent to be copied before there was a choice.
        chosen = {"allowzero": 1} if self.scope.opsets.get("", 0) >= _CHOICE_OF_ZERO else {}
        if not chosen and 0 in shape:
            raise UnsupportedError(f"{self.what} reshapes an empty tensor.", f"Export it with opset {_CHOICE_OF_ZERO}.")
        return self.emit("Reshape", [x, self.int64(np.asarray(shape, np.int64))], "reshaped", **chosen)

    def _map(self, given: Sequence[Entry]) -> list[Entry]:
        """The body, once for each element."""
        items = self._sequence(0)
        if any(isinstance(x, tuple) and len(x) != len(items) for x in given):
            raise InputError(f"{self.what} takes sequences of different lengths.", "Repair the model.")
        graph = fold.attribute(self.node, "body")
        rows = [
            self.inline(graph, [x[n] if isinstance(x, tuple) else x for x in given]) for n in range(len(items))
        ]
        columns = zip(*rows, strict=True) if rows else [()] * len(self.node.output)
        return [self.tensors(column) for column in columns]
