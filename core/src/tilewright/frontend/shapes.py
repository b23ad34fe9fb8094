"""Shapes of the model's inputs: what the model declares, completed by what the user gives."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend.tensors import dtype_of
from tilewright.ir.ops import Value, value

Array = npt.NDArray[Any]


def bind_inputs(
    inputs: Sequence[onnx.ValueInfoProto], shapes: Mapping[str, Sequence[int]]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and static shape of each input, by ONNX name.

    A symbolic dimension takes its size from `shapes`; one that several inputs share needs to be given only once.

    Raises:
        InputError: `shapes` names no input, contradicts the model or itself, or leaves a dimension open.
        UnsupportedError: an input that is not a tensor.
    """
    names = [x.name for x in inputs]
    for name in shapes:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"The inputs are {', '.join(map(repr, names))}."
            raise InputError(f"A shape is given for {name!r}, which is no input of the model.", hint)
    symbols: dict[str, tuple[int, str]] = {}
    for info in inputs:
        if info.name in shapes:
            _bind_given(info, list(shapes[info.name]), symbols)
    found = {}
    for info in inputs:
        kind = info.type.tensor_type
        if not info.type.HasField("tensor_type"):
            form = info.type.WhichOneof("value")
            raise UnsupportedError(
                f"Input {info.name!r} is a {form}, not a tensor.",
                "Only tensors can be inputs of a compiled model.",
            )
        dtype = dtype_of(kind.elem_type, f"Input {info.name!r}")
        if info.name in shapes:
            shape = tuple(int(x) for x in shapes[info.name])
        elif not kind.HasField("shape"):
            raise InputError(
                f"Input {info.name!r} has no declared shape.",
                f"Give one: --shape {info.name}=1x3x224x224 for example.",
            )
        else:
            shape = tuple(_extent(info.name, kind.shape.dim, axis, symbols) for axis in range(len(kind.shape.dim)))
        found[info.name] = dtype, shape
    return found


def _bind_given(info: onnx.ValueInfoProto, given: list[int], symbols: dict[str, tuple[int, str]]) -> None:
    dims = info.type.tensor_type.shape.dim
    name = info.name
    if any(x < 0 for x in given):
        raise InputError(f"The shape {given} given for input {name!r} has a negative extent.", "Give sizes.")
    if not info.type.tensor_type.HasField("shape"):
        return
    if len(dims) != len(given):
        raise InputError(
            f"Input {name!r} has {len(dims)} dimensions; the shape {given} given for it has {len(given)}.",
            "Give one size per dimension.",
        )
    for axis, (dim, size) in enumerate(zip(dims, given, strict=True)):
        if dim.HasField("dim_value") and dim.dim_value != size:
            raise InputError(
                f"Dimension {axis} of input {name!r} is {dim.dim_value}; the shape given for it says {size}.",
                "A fixed dimension cannot be changed.",
            )
        if dim.dim_param:
            known, source = symbols.setdefault(dim.dim_param, (size, name))
            if known != size:
                raise InputError(
                    f"Dimension {dim.dim_param!r} is {known} in {source!r}, {size} in {name!r}.",
                    "Give shapes that agree.",
                )


def _extent(
    name: str,
    dims: Sequence[onnx.TensorShapeProto.Dimension],
    axis: int,
    symbols: Mapping[str, tuple[int, str]],
) -> int:
    dim = dims[axis]
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return dim.dim_value
    if dim.dim_param in symbols:
        return symbols[dim.dim_param][0]
    called = f"({dim.dim_param!r}) " if dim.dim_param else ""
    example = "x".join(str(d.dim_value) if d.dim_value > 0 else "1" for d in dims)
    raise InputError(
        f"Dimension {axis} {called}of input {name!r} has no fixed size.",
        f"Give the input's shape, for example --shape {name}={example}.",
    )


def value_of(name: str, info: onnx.TypeProto, what: str) -> Value | None:
    """The value that a type stands for, or None when its shape is not fully known."""
    kind = info.tensor_type
    if not info.HasField("tensor_type"):
        form = info.WhichOneof("value")
        raise UnsupportedError(f"{what} is a {form}, not a tensor.", "Tilewright compiles tensors only.")
    dtype = dtype_of(kind.elem_type, what)
    if not kind.HasField("shape") or any(not d.HasField("dim_value") or d.dim_value < 0 for d in kind.shape.dim):
        return None
    return value(name, dtype, [d.dim_value for d in kind.shape.dim])


def _like_first(node: onnx.NodeProto, inputs: Sequence[Value | None], data: Sequence[Array | None]) -> Value | None:
    return inputs[0]


def _compressed(node: onnx.NodeProto, inputs: Sequence[Value | None], data: Sequence[Array | None]) -> Value | None:
    x, condition = inputs[0], data[1]
    if x is None or condition is None:
        return None
    kept = int(np.count_nonzero(condition))
    shape = list(x.static_shape())
    axis = next((a.i for a in node.attribute if a.name == "axis"), None)
    if axis is None:
        return value("", x.dtype, [kept])
    shape[axis] = kept
    return value("", x.dtype, shape)


def _unpooled(node: onnx.NodeProto, inputs: Sequence[Value | None], data: Sequence[Array | None]) -> Value | None:
    x = inputs[0]
    shape = data[2] if len(data) > 2 else None
    return None if x is None or shape is None else value("", x.dtype, [int(n) for n in shape])


OUTPUT_SHAPES: dict[str, Callable[[onnx.NodeProto, Sequence[Value | None], Sequence[Array | None]], Value | None]] = {
    "GroupNormalization": _like_first,
    "Compress": _compressed,
    "MaxUnpool": _unpooled,
}
"""Type of the first output where onnx's inference does not find it, from the node, its inputs and what is constant."""
