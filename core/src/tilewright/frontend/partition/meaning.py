"""Whether Tilewright has a meaning for a node, whatever the shapes of its inputs are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from tilewright.frontend.control import CONTROL
from tilewright.frontend.functions import plain_domain, standard_body
from tilewright.frontend.legalize import Table
from tilewright.frontend.reference import graphs

_FOLLOW_FROM_TYPES = ("Constant", "Shape", "Size")


def without_meaning(node: onnx.NodeProto, opsets: Mapping[str, int], table: Table) -> str | None:
    """An operator in or at a node that has neither a rule nor a body of others, or None."""
    domain = plain_domain(node.domain)
    version = opsets.get(domain, 0)
    if domain == "" and node.op_type in CONTROL:
        inner = (without_meaning(x, opsets, table) for graph in graphs(node) for x in graph.node)
        return next((x for x in inner if x is not None), None)
    if (domain == "" and node.op_type in _FOLLOW_FROM_TYPES) or table.covers(domain, node.op_type, version):
        return None
    if onnx.defs.has(node.op_type, version, domain):
        schema: Any = onnx.defs.get_schema(node.op_type, version, domain)
        if any(x <= version for x in schema.context_dependent_function_opset_versions):
            return None  # which depends on types, so that only an import can tell
        body = standard_body(schema, node, [], version)
        if body is not None:
            inner_opsets = {**opsets, **{plain_domain(x.domain): x.version for x in body.opset_import}}
            inner = (without_meaning(x, inner_opsets, table) for x in body.node)
            return next((x for x in inner if x is not None), None)
    return f"{domain}.{node.op_type}" if domain else node.op_type
