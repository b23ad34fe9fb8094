"""Shapes of the model's inputs: what the model declares, completed by what the user gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend.tensors import dtype_of
from tilewright.ir.expr import Expr, Extent, as_expr, as_extent
from tilewright.ir.module import Symbol
from tilewright.ir.ops import Value, value
from tilewright.ir.polynomial import canonical

Array = npt.NDArray[Any]

Shape = int | range | Sequence[int]
"""The size of a named dimension, or the range of sizes that it keeps, or the shape of an input."""


def bind_inputs(
    inputs: Sequence[onnx.ValueInfoProto], shapes: Mapping[str, Shape], symbols: Mapping[str, Symbol] | None = None
) -> dict[str, tuple[str, tuple[Extent, ...]]]:
    """Dtype and shape of each input, by ONNX name.

    A symbolic dimension takes its size from `shapes`; one that several inputs share needs to be given only once.

    Args:
        shapes: by the name of an input its shape, by the name of a dimension its size (see `asked.combinations`).
        symbols: the symbol of each named dimension that keeps a range.

    Raises:
        InputError: `shapes` contradicts the model or itself, or leaves a dimension open.
        UnsupportedError: an input that is not a tensor.
    """
    given = {name: tuple(int(x) for x in shape) for name, shape in shapes.items() if not isinstance(shape, int | range)}
    ranged = symbols or {}
    sizes = {name: (size, f"given as {size}") for name, size in shapes.items() if isinstance(size, int)}
    for info in inputs:
        if info.name in given:
            _bind_given(info, given[info.name], sizes)
    for name in (x for x in sizes if x in ranged):
        raise InputError(f"Dimension {name!r} has a range, and is {sizes[name][1]}.", "Give one of the two.")
    found: dict[str, tuple[str, tuple[Extent, ...]]] = {}
    for info in inputs:
        kind = info.type.tensor_type
        if not info.type.HasField("tensor_type"):
            form = (info.type.WhichOneof("value") or "value of unknown type").removesuffix("_type")
            raise UnsupportedError(
                f"Input {info.name!r} is a {form}, not a tensor.",
                "Only tensors can be inputs of a compiled model.",
            )
        dtype = dtype_of(kind.elem_type, f"Input {info.name!r}")
        if info.name in given:
            shape: tuple[Extent, ...] = given[info.name]
        elif not kind.HasField("shape"):
            raise InputError(
                f"Input {info.name!r} has no declared shape.",
                f"Give one: --shape {info.name}=1x3x224x224 for example.",
            )
        else:
            dims = kind.shape.dim
            known = {name: size for name, (size, _) in sizes.items()} | {name: x.var for name, x in ranged.items()}
            shape = tuple(_extent(info.name, dims, axis, known) for axis in range(len(dims)))
        found[info.name] = dtype, shape
    return found


def _bind_given(info: onnx.ValueInfoProto, given: tuple[int, ...], symbols: dict[str, tuple[int, str]]) -> None:
    dims = info.type.tensor_type.shape.dim
    name = info.name
    if any(x < 0 for x in given):
        raise InputError(f"The shape {list(given)} given for input {name!r} has a negative extent.", "Give sizes.")
    if not info.type.tensor_type.HasField("shape"):
        return
    if len(dims) != len(given):
        raise InputError(
            f"Input {name!r} has {len(dims)} dimensions; the shape {list(given)} given for it has {len(given)}.",
            "Give one size per dimension.",
        )
    for axis, (dim, size) in enumerate(zip(dims, given, strict=True)):
        if dim.HasField("dim_value") and dim.dim_value != size:
            raise InputError(
                f"Dimension {axis} of input {name!r} is {dim.dim_value}; the shape given for it says {size}.",
                "A fixed dimension cannot be changed.",
            )
        if dim.dim_param:
            known, source = symbols.setdefault(dim.dim_param, (size, f"{size} in {name!r}"))
            if known != size:
                raise InputError(
                    f"Dimension {dim.dim_param!r} is {source}, {size} in {name!r}.",
                    "Give shapes that agree.",
                )


def _extent(
    name: str,
    dims: Sequence[onnx.TensorShapeProto.Dimension],
    axis: int,
    known: Mapping[str, Extent],
) -> Extent:
    dim = dims[axis]
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return dim.dim_value
    if dim.dim_param in known:
        return known[dim.dim_param]
    total = _sum(dim.dim_param, known)
    if total is not None:
        return total
    example = "x".join(str(d.dim_value) if d.dim_value > 0 else "1" for d in dims)
    whole = f"--shape {name}={example}"
    if dim.dim_param:
        raise InputError(
            f"Dimension {axis} ({dim.dim_param!r}) of input {name!r} has no fixed size.",
            f"Give it, for example --shape {dim.dim_param}=1, or the input's shape, for example {whole}.",
        )
    raise InputError(
        f"Dimension {axis} of input {name!r} has no fixed size.",
        f"Give the input's shape, for example {whole}.",
    )


def _sum(text: str, known: Mapping[str, Extent]) -> Extent | None:
    """The extent of a dimension that exporters call by a sum, such as `past + sequence` or `past + 1`.

    None when the text is no sum, or has a name that is not known.
    """
    parts = [x.strip() for x in text.split("+")]
    found = [int(x) if x.isdecimal() else known.get(x) for x in parts]
    if len(parts) < 2 or any(x is None for x in found):
        return None
    return as_extent(canonical(sum((as_expr(x) for x in found if x is not None), as_expr(0))))


def value_of(name: str, info: onnx.TypeProto, what: str, symbolic: Mapping[str, Expr]) -> Value | None:
    """The value that a type stands for, or None when its shape is not fully known.

    Args:
        symbolic: the extent that each known dimension parameter stands for.
    """
    kind = info.tensor_type
    if not info.HasField("tensor_type"):
        form = (info.WhichOneof("value") or "value of unknown type").removesuffix("_type")
        raise UnsupportedError(f"{what} is a {form}, not a tensor.", "Tilewright compiles tensors only.")
    dtype = dtype_of(kind.elem_type, what)
    if not kind.HasField("shape"):
        return None
    shape: list[Extent] = []
    for d in kind.shape.dim:
        if d.HasField("dim_value") and d.dim_value >= 0:
            shape.append(d.dim_value)
        elif d.dim_param in symbolic:
            shape.append(symbolic[d.dim_param])
        else:
            return None
    return value(name, dtype, shape)


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


def _ranged(node: onnx.NodeProto, inputs: Sequence[Value | None], known: Sequence[Array | None]) -> Value | None:
    """ONNX's inference knows some element types only."""
    parts = [None if x is None else np.asarray(x, np.float64).reshape(-1) for x in known]
    if inputs[0] is None or any(x is None or x.size != 1 for x in parts):
        return None
    start, limit, delta = (float(x[0]) for x in parts if x is not None)
    if not delta:
        return None
    return value("", inputs[0].dtype, [max(math.ceil((limit - start) / delta), 0)])


OUTPUT_SHAPES: dict[str, Callable[[onnx.NodeProto, Sequence[Value | None], Sequence[Array | None]], Value | None]] = {
    "GroupNormalization": _like_first,
    "Compress": _compressed,
    "MaxUnpool": _unpooled,
    "Range": _ranged,
}
"""Type of the first output where onnx's inference does not find it, from the node, its inputs and what is constant."""
