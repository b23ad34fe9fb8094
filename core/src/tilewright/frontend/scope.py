"""Where the names of nodes are looked up."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import onnx

from tilewright.ir.ops import Value

Entry = Value | tuple[Value, ...] | None
"""What a name stands for: a tensor, a sequence of tensors, or nothing (an empty optional, an input left out)."""


@attrs.define
class Scope:
    """Where the names of a list of nodes are looked up: the graph's, or one call's of a function.

    Args:
        path: prefix of node names, so that a node inside a function is called by where it was called from.
        values: values by ONNX name; None stands for an optional input that was left out.
        attributes: the call's attributes, for references from the function's body.
        used: names that anything reads; other outputs are not computed.
        sequences: the tensors of sequences, by ONNX name.
    """

    opsets: Mapping[str, int]
    used: frozenset[str]
    path: str = ""
    values: dict[str, Value | None] = attrs.field(factory=dict)
    attributes: Mapping[str, onnx.AttributeProto] = attrs.field(factory=dict)
    sequences: dict[str, tuple[Value, ...]] = attrs.field(factory=dict)

    def entry(self, name: str) -> Entry:
        """What a name stands for; None for a name that nothing defines, too."""
        return self.sequences.get(name, self.values.get(name))

    def bind(self, name: str, entry: Entry) -> None:
        """Says what a name stands for from now on."""
        self.values.pop(name, None)
        self.sequences.pop(name, None)
        if isinstance(entry, tuple):
            self.sequences[name] = entry
        else:
            self.values[name] = entry
