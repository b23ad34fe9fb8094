"""The roles in a contraction: which axes number rows, columns, batches and depth, and how each operand is fed."""

from __future__ import annotations

import math
from typing import Literal

import attrs

from tilewright.ir import dtypes
from tilewright.ir.expr import Apply, Expr, Var, loads, variables
from tilewright.ir.ops import Combiner
from tilewright.views.kernel import KernelSpec
from tilewright_backends.lower.flat import FlatSpec, coefficient, flatten, fuse, merge_axes
from tilewright_backends.recipes.cpu.common import extents, is_static

Feed = Literal["packed", "direct", "panel"]
"""Where the inner loop reads an operand: a constant packed beforehand, memory as it is, or a panel packed per task."""


@attrs.frozen
class Side:
    """One operand of the product and the output axes that only it has.

    Args:
        expr: the operand at a point.
        axes: its own axes, outermost first.
        extents: their extents.
        feed: where the inner loop reads it.
        slot: the read of the kernel's specification that is packed, for the feed "packed".
    """

    expr: Expr
    axes: tuple[str, ...]
    extents: tuple[int, ...]
    feed: Feed
    slot: int = -1

    @property
    def points(self) -> int:
        return math.prod(self.extents)


@attrs.frozen
class Contraction:
    """`out[batch, row, col] = Σ_depth rows · cols`, with an epilogue.

    The inner loop broadcasts elements of `rows` and runs lanes along `cols`.

    Args:
        spec: the specification, neighbouring axes merged.
        tail: the specification with the rows fused in the axis "row" and the columns in "col", for the epilogue.
        dtype: in which the sums are carried.
    """

    spec: FlatSpec
    tail: FlatSpec
    batch: tuple[str, ...]
    depth: tuple[str, ...]
    rows: Side
    cols: Side
    dtype: str

    @property
    def batch_points(self) -> int:
        return math.prod(extents(self.spec, self.batch))

    @property
    def depth_extents(self) -> tuple[int, ...]:
        return extents(self.spec, self.depth)

    @property
    def depth_points(self) -> int:
        return math.prod(self.depth_extents)

    @property
    def blocked(self) -> Side:
        """The side that a task takes a block of pixels or rows of: the one with a panel, or else the rows."""
        return self.cols if self.cols.feed == "panel" else self.rows

    @property
    def other(self) -> Side:
        return self.rows if self.blocked is self.cols else self.cols


ROW, COL = "row", "col"


def is_sum(combiner: Combiner | None) -> bool:
    """Whether the combiner adds one state up."""
    if combiner is None or len(combiner.combine) != 1 or combiner.identity[0].value != 0:
        return False
    merged = combiner.combine[0]
    return (
        isinstance(merged, Apply)
        and merged.op == "add"
        and all(isinstance(x, Var) for x in merged.args)
        and merged.args[0] != merged.args[1]
    )


def contraction_of(kernel: KernelSpec, lanes: int) -> Contraction | None:
    """The kernel as a contraction fed in the cheaper of the two ways, or None when it is none."""
    spec = merge_axes(flatten(kernel))
    if not is_static(spec) or not is_sum(spec.combiner) or not spec.reduce or not _plain_stores(spec):
        return None
    product = spec.body[0]
    if not (isinstance(product, Apply) and product.op == "mul"):
        return None
    assert spec.combiner is not None
    dtype = spec.combiner.dtypes[0]
    left, right = product.args
    if product.dtype != dtype or dtype not in ("float32", "float64", "int32"):
        return None
    if loads(left) & loads(right) or not loads(left) or not loads(right):
        return None
    used = [_axes_of(spec, left), _axes_of(spec, right)]
    names = [x.name for x in spec.spatial]
    depth = tuple(x.name for x in spec.reduce)
    if not all(set(depth) <= x for x in used):
        return None
    batch = tuple(x for x in names if (x in used[0]) == (x in used[1]))
    own = [tuple(x for x in names if x in mine and x not in batch) for mine in used]
    found: list[tuple[float, Contraction]] = []
    ways = ((left, right, own[0], own[1]), (right, left, own[1], own[0]))
    for row_expr, col_expr, row_axes, col_axes in ways:
        if not col_axes:
            continue
        rows = _side(kernel, spec, row_expr, row_axes, depth, as_rows=True)
        cols = _side(kernel, spec, col_expr, col_axes, depth, as_rows=False)
        if rows.feed == "panel" and cols.feed == "panel":
            continue
        tail = fuse(fuse(spec, row_axes, ROW), col_axes, COL)
        contraction = Contraction(spec, tail, batch, depth, rows, cols, dtype)
        found.append((_cycles(contraction, lanes), contraction))
    return min(found, key=lambda item: item[0])[1] if found else None


def _plain_stores(spec: FlatSpec) -> bool:
    return all(s.update is None and s.base is None for s in spec.stores)


def _axes_of(spec: FlatSpec, expr: Expr) -> frozenset[str]:
    """Axes that the value of an operand depends on."""
    seen: set[int] = set()
    names = set(variables(expr))
    todo = list(loads(expr))
    while todo:
        slot = todo.pop()
        if slot in seen:
            continue
        seen.add(slot)
        access = spec.reads[slot]
        names |= variables(access.address, access.guard)
        todo += loads(access.address, access.guard)
    return frozenset(names)


def _side(
    kernel: KernelSpec, spec: FlatSpec, expr: Expr, axes: tuple[str, ...], depth: tuple[str, ...], as_rows: bool
) -> Side:
    sizes = extents(spec, axes)
    slots = loads(expr)
    if len(slots) == 1 and not variables(expr):
        (slot,) = slots
        access = spec.reads[slot]
        steered = loads(access.address, access.guard)
        if access.value.name in kernel.constants and not steered:
            return Side(expr, axes, sizes, "packed", slot)
        plain = as_rows and access.guard is None and len(depth) == 1 and not steered
        if plain and all(coefficient(access.address, x) is not None for x in (*axes, *depth)):
            return Side(expr, axes, sizes, "direct")
    return Side(expr, axes, sizes, "panel")


def _cycles(contraction: Contraction, lanes: int) -> float:
    """A rough count of machine cycles, to choose between the two ways to feed the inner loop."""
    rows, cols = contraction.rows.points, contraction.cols.points
    depth, batch = contraction.depth_points, contraction.batch_points
    vectors = math.ceil(cols / lanes)
    # Two multiply-adds per cycle, and at least a load per cycle for the vectors.
    total = depth * vectors * max(rows / 2, 1.0)
    for side in (contraction.rows, contraction.cols):
        if side.feed == "panel":
            per_element = 3 / lanes if _packs_by_vector(contraction.spec, side) else 1.5
            total += depth * side.points * per_element
    strides = [coefficient(x.address, COL) for x in contraction.tail.stores]
    total += rows * cols * (0.5 / lanes if all(x == 1 for x in strides) else 2.5)
    if contraction.cols.feed == "packed" and dtypes.size_of(contraction.dtype) == 4 and rows == 1:
        total *= 1.02  # a matrix that is used once is better left as it is, where that is possible
    return batch * total


def _packs_by_vector(spec: FlatSpec, side: Side) -> bool:
    """Whether neighbouring points of the side's innermost axis lie close together in memory."""
    if not side.axes:
        return False
    strides = [coefficient(spec.reads[x].address, side.axes[-1]) for x in loads(side.expr)]
    return all(x is not None and 0 <= x <= 4 for x in strides)
