"""The values in ONNX's test data: arrays, strings, sequences and optionals, loaded and compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tilewright.values import normal

Array = npt.NDArray[Any]


def loaded(x: Any) -> Any:
    """A value of a test in the form that programs take and give."""
    match x:
        case onnx.TensorProto():
            return normal(onnx.numpy_helper.to_array(x))
        case onnx.SequenceProto():
            return normal(onnx.numpy_helper.to_list(x))
        case onnx.OptionalProto():
            return normal(onnx.numpy_helper.to_optional(x))
    return normal(x)


def parsed(data: bytes, kind: onnx.TypeProto) -> Any:
    """The message in a file of test data, of an input or output of a type."""
    match kind.WhichOneof("value"):
        case "sequence_type":
            return onnx.SequenceProto.FromString(data)
        case "optional_type":
            return onnx.OptionalProto.FromString(data)
    return onnx.TensorProto.FromString(data)


def difference(mine: Any, theirs: Any, compared: Callable[[Array, Array], str]) -> str:
    """How a value differs from the expected one, or "".

    Args:
        compared: says how two arrays differ.
    """
    if isinstance(theirs, list):
        if not isinstance(mine, list) or len(mine) != len(theirs):
            return f"{_kind(mine)} instead of {_kind(theirs)}"
        found = (difference(a, b, compared) for a, b in zip(mine, theirs, strict=True))
        return next((f"element {n}: {text}" for n, text in enumerate(found) if text), "")
    if not isinstance(theirs, np.ndarray) or not isinstance(mine, np.ndarray):
        return "" if mine is theirs is None else f"{_kind(mine)} instead of {_kind(theirs)}"
    return compared(mine, theirs)


def _kind(x: Any) -> str:
    match x:
        case None:
            return "nothing"
        case list():
            return f"a sequence of {len(x)}"
        case np.ndarray():
            return f"{x.dtype} {list(x.shape)}"
    return type(x).__name__
