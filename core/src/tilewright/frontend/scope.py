"""Where the names of nodes are looked up."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import onnx

from tilewright.ir.ops import Value


@attrs.define
class Scope:
    """Where the names of a list of nodes are looked up: the graph's, or one call's of a function.

    Args:
        path: prefix of node names, so that a node inside a function is called by where it was called from.
        values: values by ONNX name; None stands for an optional input that was left out.
        attributes: the call's attributes, for references from the function's body.
        used: names that anything reads; other outputs are not computed.
    """

    opsets: Mapping[str, int]
    used: frozenset[str]
    path: str = ""
    values: dict[str, Value | None] = attrs.field(factory=dict)
    attributes: Mapping[str, onnx.AttributeProto] = attrs.field(factory=dict)
