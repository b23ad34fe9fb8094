"""Constant folding: ONNX nodes whose inputs are all known are evaluated while the model is imported.

What exports put around reshapes (Shape, Gather, Concat, arithmetic on extents) is evaluated here directly with NumPy,
because there are thousands of such nodes; everything else goes to ONNX's reference evaluator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tilewright.errors import InputError, UnsupportedError
from tilewright.frontend.reference import reference_node

Array = npt.NDArray[Any]

LARGEST_GROWTH = 1 << 20
"""Bytes by which the results of a folded node may exceed its inputs (a broadcast constant is better left alone)."""

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def evaluate(
    node: onnx.NodeProto, inputs: Sequence[Array | None], opsets: Mapping[str, int], what: str
) -> list[Array] | None:
    """The outputs of a node on known inputs; None when the reference evaluator does not know the operator.

    Raises:
        InputError: the node cannot be evaluated on them, so the model is wrong.
    """
    direct = _DIRECT.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    try:
        if direct is not None:
            result = direct(node, *inputs)
            if result is not None:
                return [result]
        return _reference(node, inputs, opsets)
    except (NotImplementedError, UnsupportedError):
        return None  # a function of ONNX's, which is expanded, or something rare
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise InputError(f"{what} cannot be evaluated on its constant inputs: {error}.", "Check the model.") from error


_UNREAD = np.zeros(0)
"""What stands in the place of an output that nothing reads."""


def _reference(node: onnx.NodeProto, inputs: Sequence[Array | None], opsets: Mapping[str, int]) -> list[Array]:
    feeds = {name: x for name, x in zip(node.input, inputs, strict=True) if name}
    found = reference_node(node, opsets).run(feeds)
    return [np.asarray(found.get(name, _UNREAD)) for name in node.output]


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The Python value of an attribute."""
    for found in node.attribute:
        if found.name == name:
            return onnx.helper.get_attribute_value(found)
    return default


def _gather(node: onnx.NodeProto, data: Array, indices: Array) -> Array:
    return np.asarray(np.take(data, indices, axis=attribute(node, "axis", 0)))


def _concat(node: onnx.NodeProto, *parts: Array) -> Array:
    return np.concatenate(parts, axis=attribute(node, "axis"))


def _unsqueeze(node: onnx.NodeProto, data: Array, axes: Array | None = None) -> Array:
    given = attribute(node, "axes") if axes is None else axes.reshape(-1).tolist()
    return np.expand_dims(data, tuple(given))


def _squeeze(node: onnx.NodeProto, data: Array, axes: Array | None = None) -> Array:
    given = attribute(node, "axes") if axes is None else axes.reshape(-1).tolist()
    return np.squeeze(data, None if given is None else tuple(given))


def _transpose(node: onnx.NodeProto, data: Array) -> Array:
    return np.transpose(data, attribute(node, "perm")).copy()


def _arithmetic(function: Callable[..., Array]) -> Callable[..., Array | None]:
    def run(node: onnx.NodeProto, a: Array, b: Array) -> Array | None:
        return np.asarray(function(a, b)) if a.dtype == b.dtype and a.dtype.kind in "i" else None

    return run


def slice_range(start: int, end: int, step: int, extent: int) -> tuple[int, int]:
    """First position and number of elements of a slice along a dimension.

    As ONNX's text says, and unlike NumPy, a step back from before the first element starts at it.
    """
    start, end = (x + extent if x < 0 else x for x in (start, end))
    if step > 0:
        first, last = min(max(start, 0), extent), min(max(end, 0), extent)
        return first, max(-(-(last - first) // step), 0)
    first, last = min(max(start, 0), extent - 1), min(max(end, -1), extent - 1)
    return first, max(-(-(last - first) // step), 0) if extent else 0


def _slice(node: onnx.NodeProto, data: Array, *bounds: Array | None) -> Array | None:
    if len(bounds) < 2 or bounds[0] is None or bounds[1] is None:
        return None
    starts, ends = bounds[0].tolist(), bounds[1].tolist()
    axes = list(range(len(starts))) if len(bounds) < 3 or bounds[2] is None else bounds[2].tolist()
    steps = [1] * len(starts) if len(bounds) < 4 or bounds[3] is None else bounds[3].tolist()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, count = slice_range(start, end, step, data.shape[axis])
        data = np.take(data, first + step * np.arange(count), axis=axis)
    return data


_DIRECT: dict[str, Callable[..., Array | None]] = {
    "Gather": _gather,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Slice": _slice,
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
}
