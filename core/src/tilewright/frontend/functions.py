"""Function bodies: what is known of a node before it is imported, and ONNX's definitions of composite operators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx

_INFERENCE_DEFAULTS = {"STFT": onnx.helper.make_attribute("onesided", 1)}
"""Attributes that onnx's shape inference takes another default for than the operator's definition says."""


def plain_domain(name: str) -> str:
    """A domain with ONNX's own spelt in the one way."""
    return "" if name == "ai.onnx" else name


def resolved(
    node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto], used: frozenset[str]
) -> onnx.NodeProto:
    """The node as it is imported: attributes that refer to its function's replaced, outputs that nothing reads unnamed.

    Args:
        attributes: those of the enclosing function's call.
        used: names that anything reads.
    """
    references = any(x.ref_attr_name for x in node.attribute)
    unused = [n for n, name in enumerate(node.output) if name and name not in used]
    default = _INFERENCE_DEFAULTS.get(node.op_type)
    missing = default is not None and all(x.name != default.name for x in node.attribute)
    if not references and not unused and not missing:
        return node
    found = onnx.NodeProto()
    found.CopyFrom(node)
    for n in unused:
        found.output[n] = ""
    if references:
        del found.attribute[:]
    for attribute in node.attribute if references else ():
        if not attribute.ref_attr_name:
            found.attribute.append(attribute)
        elif attribute.ref_attr_name in attributes:
            copied = found.attribute.add()
            copied.CopyFrom(attributes[attribute.ref_attr_name])
            copied.name = attribute.name
    if missing and default is not None:
        found.attribute.append(default)
    return found


def standard_body(
    schema: Any, node: onnx.NodeProto, types: Sequence[onnx.TypeProto | None], version: int
) -> onnx.FunctionProto | None:
    """ONNX's own definition of a composite operator at an opset, if it has one.

    Args:
        schema: the operator's `OpSchema`.
        types: those of the inputs; None for one that is left out.
    """
    plain = [v for v in schema.function_opset_versions if v <= version]
    if plain:
        function: onnx.FunctionProto = onnx.FunctionProto.FromString(schema.get_function_with_opset_version(max(plain)))
        function.attribute_proto.extend(x.default_value for x in schema.attributes.values() if x.default_value.type)
        return function
    dependent = [v for v in schema.context_dependent_function_opset_versions if v <= version]
    if not dependent:
        return None
    found: onnx.FunctionProto = onnx.FunctionProto.FromString(
        schema.get_context_dependent_function_with_opset_version(
            max(dependent), node.SerializeToString(), [b"" if t is None else t.SerializeToString() for t in types]
        )
    )
    return found if found.node else None


def names_used(nodes: Iterable[onnx.NodeProto], results: Iterable[str]) -> frozenset[str]:
    """Everything that the nodes and the graphs inside them read, and the results."""
    found = set(results)
    for node in nodes:
        found.update(node.input)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                found |= names_used(graph.node, (x.name for x in graph.output))
    return frozenset(found)
