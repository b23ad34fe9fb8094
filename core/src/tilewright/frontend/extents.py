"""Shapes of results where dimensions are symbolic: the operators that make new extents from old ones.

Where a dimension is only passed on, onnx's own inference finds it by its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import onnx

from tilewright.errors import UnsupportedError
from tilewright.frontend import fold
from tilewright.frontend.numbers import Numbers, fixing, settle, shown
from tilewright.ir.bounds import Bounds, bounds_of
from tilewright.ir.expr import Expr, Extent, as_expr, as_extent, ceil_div, const, maximum, minimum, number_of
from tilewright.ir.ops import Value
from tilewright.ir.polynomial import exact_quotient

Shape = list[Extent]


@attrs.frozen
class Symbolic:
    """A node with symbolic dimensions.

    Args:
        node: the node.
        what: how errors call it.
        inputs: its inputs.
        numbers: what is known of each input of integers while compiling.
        data: contents of the inputs that are constants.
        bounds: intervals of the symbols.
    """

    node: onnx.NodeProto
    what: str
    inputs: Sequence[Value | None]
    numbers: Sequence[Numbers | None]
    data: Sequence[npt.NDArray[Any] | None]
    bounds: Bounds

    def shape(self, position: int = 0) -> Shape:
        """Extents of an input."""
        found = self.inputs[position]
        return [] if found is None else list(found.extents)

    def known(self, position: int) -> list[Extent] | None:
        """The numbers of an input."""
        found = self.numbers[position] if position < len(self.numbers) else None
        return None if found is None else list(found.flat)

    def listed(self, position: int, name: str) -> list[Extent] | None:
        """Numbers that are an input, or an attribute in older opsets."""
        given = fold.attribute(self.node, name)
        return self.known(position) if given is None else list(given)

    def settled(self, extent: Extent) -> Extent:
        """An extent in the one way to write it."""
        return settle(extent, self.bounds) if isinstance(extent, Expr) else extent

    def refused(self, why: str) -> UnsupportedError:
        """An error that names the node."""
        option = fixing(*(n for x in self.inputs if x is not None for n in x.extents))
        return UnsupportedError(
            f"{self.what} {why}.", f"Fix a dimension when compiling, for example {option}, or narrow its range."
        )

    def interval(self, extent: Extent) -> tuple[int, int]:
        """The smallest and the largest value of an extent."""
        found = bounds_of(as_expr(extent), self.bounds)
        return found.low, found.high


def result_shape(given: Symbolic) -> Shape | None:
    """Extents of the first result, or None when they are not known.

    Raises:
        UnsupportedError: they depend on the symbols in a way that cannot be written down.
    """
    rule = _RULES.get(given.node.op_type)
    found = None if rule is None else rule(given)
    return None if found is None else [given.settled(x) for x in found]


def _reshape(of: Symbolic) -> Shape | None:
    target, source = of.known(1), of.shape()
    if target is None:
        return None
    zero = bool(fold.attribute(of.node, "allowzero", 0))
    found = [source[d] if n == 0 and not zero and d < len(source) else n for d, n in enumerate(target)]
    if -1 in found:
        open_ = found.index(-1)
        total, rest = number_of(source), number_of([n for d, n in enumerate(found) if d != open_])
        quotient = exact_quotient(total, rest)
        if quotient is None:
            count = shown(of.settled(total))
            raise of.refused(f"divides {count} elements by {shown(rest)}, which is not exact for every size")
        found[open_] = as_extent(quotient)
    return found


def _flatten(of: Symbolic) -> Shape:
    source = of.shape()
    axis = fold.attribute(of.node, "axis", 1)
    axis = axis + len(source) if axis < 0 else axis
    return [as_extent(number_of(source[:axis])), as_extent(number_of(source[axis:]))]


def broadcast(of: Symbolic, a: Sequence[Extent], b: Sequence[Extent]) -> Shape:
    """The shape that two broadcast to."""
    rank = max(len(a), len(b))
    left, right = ([*[1] * (rank - len(x)), *map(of.settled, x)] for x in (a, b))
    found: Shape = []
    for x, y in zip(left, right, strict=True):
        if x != y and 1 not in (x, y):
            raise of.refused(f"broadcasts {shown(x)} against {shown(y)}, which does not fit for every size")
        found.append(y if x == 1 else x)
    return found


def _expand(of: Symbolic) -> Shape | None:
    target = of.known(1)
    return None if target is None else broadcast(of, of.shape(), target)


def _pointwise(of: Symbolic) -> Shape:
    found: Shape = []
    for x in of.inputs:
        found = broadcast(of, found, () if x is None else x.extents)
    return found


def _concat(of: Symbolic) -> Shape:
    found = of.shape()
    axis = fold.attribute(of.node, "axis")
    found[axis] = as_extent(sum((as_expr(of.shape(n)[axis]) for n in range(len(of.inputs))), as_expr(0)))
    return found


def slice_extent(of: Symbolic, start: Extent, end: Extent, step: int, extent: Extent) -> tuple[Extent, Extent]:
    """First position and number of elements of a slice along a dimension, as `fold.slice_range` has it."""
    if all(isinstance(x, int) for x in (start, end, extent)):
        return fold.slice_range(int(start), int(end), step, int(extent))  # type: ignore[arg-type]
    n = as_expr(extent)
    first, last = (_from_front(of, x, n) for x in (start, end))
    if step > 0:
        first, last = (minimum(maximum(x, 0), n) for x in (first, last))
        count = maximum(ceil_div(last - first, step), 0)
    else:
        first, last = minimum(maximum(first, 0), n - 1), minimum(maximum(last, -1), n - 1)
        count = maximum(ceil_div(first - last, -step), 0)
    settled = of.settled(first)
    count_settled = of.settled(as_expr(of.settled(count)))
    return settled, count_settled


def _from_front(of: Symbolic, position: Extent, extent: Expr) -> Expr:
    low, high = of.interval(position)
    if low < 0 <= high:
        raise of.refused(f"slices from or to {shown(position)}, which counts from the front or from the end")
    return as_expr(position) + extent if high < 0 else as_expr(position)


def slice_bounds(of: Symbolic) -> list[tuple[Extent, int, Extent]] | None:
    """First position, step and number of elements along each dimension of what is sliced."""
    starts, ends = of.listed(1, "starts"), of.listed(2, "ends")
    axes, steps = of.listed(3, "axes"), of.known(4)
    if starts is None or ends is None:
        return None
    found: list[tuple[Extent, int, Extent]] = [(0, 1, n) for n in of.shape()]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = number if axes is None else axes[number]
        step = 1 if steps is None else steps[number]
        if not isinstance(axis, int) or not isinstance(step, int):
            raise of.refused("has an axis or a step that is symbolic")
        first, count = slice_extent(of, start, end, step, of.shape()[axis])
        found[axis] = first, step, count
    return found


def _slice(of: Symbolic) -> Shape | None:
    found = slice_bounds(of)
    return None if found is None else [count for _, _, count in found]


def range_count(of: Symbolic) -> tuple[Extent, int, Extent] | None:
    """Start, step and number of elements of a `Range` of integers."""
    parts = [of.known(n) for n in range(3)]
    if any(x is None or len(x) != 1 for x in parts):
        return None
    start, limit, step = (x[0] for x in parts if x is not None)
    if not isinstance(step, int) or step == 0:
        return None
    distance = as_expr(limit) - start
    count = ceil_div(distance, step) if step > 0 else ceil_div(-distance, -step)
    return start, step, of.settled(maximum(as_expr(of.settled(count)), 0))


def _range(of: Symbolic) -> Shape | None:
    found = range_count(of)
    return None if found is None else [found[2]]


def _tile(of: Symbolic) -> Shape | None:
    repeats = of.known(1)
    return None if repeats is None else [as_extent(as_expr(n) * r) for n, r in zip(of.shape(), repeats, strict=True)]


def _pad(of: Symbolic) -> Shape | None:
    pads, axes = of.listed(1, "pads"), of.known(3)
    if pads is None:
        return None
    found = of.shape()
    chosen = range(len(found)) if axes is None else [int(a) for a in axes if isinstance(a, int)]
    for number, axis in enumerate(chosen):
        found[axis] = as_extent(as_expr(found[axis]) + pads[number] + pads[len(pads) // 2 + number])
    return found


def _window(of: Symbolic) -> Shape | None:
    x, kernel = of.shape(), fold.attribute(of.node, "kernel_shape")
    rank = len(x) - 2
    if fold.attribute(of.node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or rank < 1:
        raise of.refused("pads a symbolic dimension by auto_pad")
    weight = of.inputs[1] if len(of.inputs) > 1 else None
    sizes = list(weight.static_shape()[2:]) if kernel is None and weight is not None else list(kernel or ())
    strides, dilations = (list(fold.attribute(of.node, k) or [1] * rank) for k in ("strides", "dilations"))
    pads = list(fold.attribute(of.node, "pads") or [0] * (2 * rank))
    up = bool(fold.attribute(of.node, "ceil_mode", 0))
    found: Shape = [x[0], x[1] if weight is None else weight.extents[0]]
    for d in range(rank):
        room = as_expr(x[2 + d]) + (pads[d] + pads[rank + d] - (sizes[d] - 1) * dilations[d] - 1)
        if up and isinstance(of.settled(room), Expr):
            raise of.refused("rounds the number of windows along a symbolic dimension up")
        steps = ceil_div(room, strides[d]) if up else room // as_expr(strides[d])
        found.append(as_extent(maximum(steps + 1, 0)))
    return found


def _resize(of: Symbolic) -> Shape | None:
    found = of.shape()
    axes = [a % len(found) for a in fold.attribute(of.node, "axes", range(len(found)))]
    scales, sizes = of.data[2] if len(of.data) > 2 else None, of.known(3)
    if fold.attribute(of.node, "keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise of.refused("keeps the aspect ratio of a symbolic shape")
    for n, axis in enumerate(axes):
        extent = found[axis]
        if sizes is not None:
            found[axis] = sizes[n]
        elif scales is None or not scales.size:
            return None
        elif isinstance(extent, int):
            found[axis] = math.floor(extent * float(scales[n]))
        elif float(scales[n]) != 1.0:
            raise of.refused(f"scales the symbolic extent {shown(extent)}")
    return found


def _filled(of: Symbolic) -> Shape | None:
    return of.known(0)


def _split(of: Symbolic) -> Shape | None:
    """The extents of each part, where a symbolic dimension is split into equal ones."""
    found = of.shape()
    axis = int(fold.attribute(of.node, "axis", 0)) % len(found)
    extent, count = found[axis], len(of.node.output)
    if isinstance(extent, int):
        return None
    if len(of.node.input) > 1 or fold.attribute(of.node, "split") is not None:
        raise of.refused(f"splits {shown(extent)} elements into parts of given sizes")
    part = exact_quotient(extent, const(count))
    if part is None:
        raise of.refused(f"splits {shown(extent)} elements into {count} parts, which are not equal for every size")
    found[axis] = part
    return found


_BROADCASTING = (
    "Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul "
    "Or PRelu Pow Sub Sum Where Xor"
)
_RULES: Mapping[str, Callable[[Symbolic], Shape | None]] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Expand": _expand,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Range": _range,
    "Tile": _tile,
    "Pad": _pad,
    "Conv": _window,
    "MaxPool": _window,
    "AveragePool": _window,
    "ConstantOfShape": _filled,
    "Resize": _resize,
    **dict.fromkeys(_BROADCASTING.split(), _pointwise),
}


def is_symbolic(inputs: Sequence[Value | None], numbers: Sequence[Numbers | None]) -> bool:
    """Whether a shape, or what is known of an input, holds a symbol."""
    return any(x is not None and not x.is_static for x in inputs) or any(
        x is not None and any(isinstance(n, Expr) for n in np.asarray(x).flat) for x in numbers
    )
