"""Types of values that the IR need not have: strings, sequences, optionals, tensors of unknown shape."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np
import numpy.typing as npt
import onnx
from onnx import shape_inference

from tilewright.errors import UnsupportedError
from tilewright.frontend.functions import plain_domain
from tilewright.frontend.tensors import dtype_of
from tilewright.ir.ops import Value, value

_SAMPLE_EXTENT = 2
"""What stands for an extent that is not known when a node is tried out."""


@attrs.frozen
class Open:
    """A value that the compiler does not know all about.

    Args:
        type: as far as it is known; None: not at all.
    """

    type: onnx.TypeProto | None

    @property
    def is_opaque(self) -> bool:
        """Whether it may be something else than a tensor of the IR's types."""
        return self.type is None or dtype_in(self.type) is None

    def sample(self, name: str) -> Value | None:
        """A value such as it might be, or None when not even its rank is known."""
        if self.type is None or not self.type.tensor_type.HasField("shape"):
            return None
        dims = self.type.tensor_type.shape.dim
        extents = [d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else _SAMPLE_EXTENT for d in dims]
        dtype = dtype_in(self.type)
        return None if dtype is None else value(name, dtype, extents)


def dtype_in(kind: onnx.TypeProto) -> str | None:
    """The IR's element type of a tensor's type; None for what is no tensor, or one of strings."""
    if not kind.HasField("tensor_type"):
        return None
    try:
        return dtype_of(kind.tensor_type.elem_type, "")
    except UnsupportedError:
        return None


def closed(kind: onnx.TypeProto | None, name: str) -> Value | None:
    """The value of a type that is wholly known, otherwise None."""
    dtype = None if kind is None else dtype_in(kind)
    if kind is None or dtype is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    if any(not d.HasField("dim_value") or d.dim_value < 0 for d in dims):
        return None
    return value(name, dtype, [d.dim_value for d in dims])


def described(kind: onnx.TypeProto | None) -> str:
    """A type for people, such as `sequence of float32[?, 3]`."""
    if kind is None:
        return "its type is not known"
    match kind.WhichOneof("value"):
        case "tensor_type":
            dtype = dtype_in(kind) or onnx.TensorProto.DataType.Name(kind.tensor_type.elem_type).lower()
            if not kind.tensor_type.HasField("shape"):
                return dtype
            dims = kind.tensor_type.shape.dim
            return f"{dtype}[{', '.join(str(d.dim_value) if d.HasField('dim_value') else '?' for d in dims)}]"
        case "sequence_type":
            return f"sequence of {described(kind.sequence_type.elem_type)}"
        case "optional_type":
            return f"optional {described(kind.optional_type.elem_type)}"
        case other:
            return str(other).removesuffix("_type").replace("_", " ")


def inferred(
    node: onnx.NodeProto,
    types: Mapping[str, onnx.TypeProto],
    data: Mapping[str, npt.NDArray[np.generic]],
    opsets: Mapping[str, int],
) -> dict[str, onnx.TypeProto]:
    """Types of a node's outputs as onnx infers them; one that it does not find is left out.

    Args:
        types: of what the node reads, as far as they are known.
        data: what of that is constant.
    """
    domain = plain_domain(node.domain)
    version = opsets.get(domain, 0)
    if any(x and x not in types for x in node.input) or not onnx.defs.has(node.op_type, version, domain):
        return {}
    schema = onnx.defs.get_schema(node.op_type, version, domain)
    known = {name: onnx.numpy_helper.from_array(np.array(x)) for name, x in data.items()}
    imports = [onnx.helper.make_opsetid(name, number) for name, number in opsets.items()]
    try:
        found = shape_inference.infer_node_outputs(schema, node, dict(types), known, None, imports)
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError):
        return {}
    return {name: kind for name, kind in found.items() if kind.WhichOneof("value") is not None}
