"""Models with named dimensions, from models of fixed shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx


def with_dimensions(model: onnx.ModelProto, names: Mapping[str, Sequence[str]]) -> onnx.ModelProto:
    """The model with dimensions of its inputs named, and what was inferred from their sizes forgotten.

    Args:
        names: by input, the name of each dimension; "" leaves one as it is.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for info in made.graph.input:
        dims = info.type.tensor_type.shape.dim
        for dim, name in zip(dims, names.get(info.name, [""] * len(dims)), strict=True):
            if name:
                dim.Clear()
                dim.dim_param = name
    for info in made.graph.output:
        for dim in info.type.tensor_type.shape.dim:
            dim.Clear()
    del made.graph.value_info[:]
    return made


def named_by_size(model: onnx.ModelProto, size: int, name: str) -> onnx.ModelProto:
    """The model with every dimension of its inputs that has a size named."""
    sizes = {x.name: [d.dim_value for d in x.type.tensor_type.shape.dim] for x in model.graph.input}
    return with_dimensions(model, {k: [name if n == size else "" for n in found] for k, found in sizes.items()})
