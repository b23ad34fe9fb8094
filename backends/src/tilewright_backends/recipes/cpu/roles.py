"""How the operands of a contraction are fed to the inner loop."""

from __future__ import annotations

import math
from typing import Literal

import attrs

from tilewright.ir import dtypes
from tilewright.ir.expr import Const, Expr, const, loads, number_of, variables
from tilewright.views.kernel import KernelSpec
from tilewright_backends.lower.flat import FlatAccess, FlatSpec, coefficient, flatten, fuse, merge_axes, stride_of
from tilewright_backends.recipes.contraction import Operand, contraction_of
from tilewright_backends.recipes.cpu.common import axis_extents, bounds

Feed = Literal["packed", "direct", "panel"]
"""Where the inner loop reads an operand: a constant packed beforehand, memory as it is, or a panel packed per task."""


@attrs.frozen
class Side:
    """One operand of the product and the output axes that only it has.

    Args:
        expr: the operand at a point.
        axes: its own axes, outermost first.
        extents: their extents by the bounds of the symbols.
        counts: their extents by the values of the symbols.
        feed: where the inner loop reads it.
        slot: the read of the kernel's specification that is packed, for the feed "packed".
    """

    expr: Expr
    axes: tuple[str, ...]
    extents: tuple[int, ...]
    counts: tuple[Expr, ...]
    feed: Feed
    slot: int = -1

    @property
    def points(self) -> int:
        return math.prod(self.extents)

    @property
    def last(self) -> int:
        """Extent of the innermost axis."""
        return self.extents[-1] if self.extents else 1

    @property
    def outer_points(self) -> int:
        """Points of the axes around the innermost one."""
        return math.prod(self.extents[:-1])

    @property
    def last_count(self) -> Expr:
        """Extent of the innermost axis by the values of the symbols."""
        return self.counts[-1] if self.counts else const(1)

    @property
    def outer_count(self) -> Expr:
        """Points of the axes around the innermost one by the values of the symbols."""
        return number_of(self.counts[:-1])

    @property
    def count(self) -> Expr:
        """Points by the values of the symbols."""
        return number_of(self.counts)


@attrs.frozen
class FedContraction:
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
        return math.prod(bounds(self.spec, self.batch))

    @property
    def batch_counts(self) -> tuple[Expr, ...]:
        """Extents of the batch axes by the values of the symbols."""
        return axis_extents(self.spec, self.batch)

    @property
    def depth_extents(self) -> tuple[int, ...]:
        return bounds(self.spec, self.depth)

    @property
    def depth_count(self) -> Expr:
        """Extent of the first depth axis by the values of the symbols. Those of the others are literals."""
        return axis_extents(self.spec, self.depth)[0]

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


def fed_contraction_of(kernel: KernelSpec, lanes: int) -> FedContraction | None:
    """The kernel as a contraction fed in the cheaper of the two ways, or None when it is none."""
    spec = merge_axes(flatten(kernel))
    roles = contraction_of(spec)
    if roles is None or not roles.k or roles.state not in ("float32", "float64", "int32"):
        return None
    assert spec.combiner is not None
    if spec.combiner.dtypes[0] != roles.state or loads(roles.rows.value) & loads(roles.columns.value):
        return None
    batch, depth = (tuple(x.name for x in axes) for axes in (roles.batch, roles.k))
    if not all(set(depth) <= x.axes for x in (roles.rows, roles.columns)):
        return None
    if not all(isinstance(x, Const) for x in axis_extents(spec, depth)[1:]):
        return None
    found: list[tuple[float, FedContraction]] = []
    for way in (roles, roles.swapped()):
        if not way.n:
            continue
        rows = _side(kernel, spec, way.rows, batch, depth, as_rows=True)
        cols = _side(kernel, spec, way.columns, batch, depth, as_rows=False)
        if rows.feed == "panel" and cols.feed == "panel":
            continue
        if rows.feed == "direct" and cols.feed == "packed" and not _steps_lie_together(spec, rows, depth):
            rows = attrs.evolve(rows, feed="panel")
        tail = fuse(fuse(spec, rows.axes, ROW), cols.axes, COL)
        contraction = FedContraction(spec, tail, batch, depth, rows, cols, way.state)
        found.append((_cycles(contraction, lanes), contraction))
    return min(found, key=lambda item: item[0])[1] if found else None


def _side(
    kernel: KernelSpec,
    spec: FlatSpec,
    operand: Operand,
    batch: tuple[str, ...],
    depth: tuple[str, ...],
    as_rows: bool,
) -> Side:
    expr, axes = operand.value, tuple(x.name for x in operand.outer)
    sizes, counts = bounds(spec, axes), axis_extents(spec, axes)
    slots = loads(expr)
    if len(slots) == 1 and not variables(expr):
        (slot,) = slots
        access = spec.reads[slot]
        steered = loads(access.address, access.guard)
        if access.value.name in kernel.constants and not steered and _is_fixed(spec, access, batch):
            return Side(expr, axes, sizes, counts, "packed", slot)
        plain = as_rows and access.guard is None and len(depth) == 1 and not steered
        if plain and all(stride_of(access.address, x, spec.symbol_bounds) is not None for x in (*axes, *depth)):
            return Side(expr, axes, sizes, counts, "direct")
    return Side(expr, axes, sizes, counts, "panel")


def _steps_lie_together(spec: FlatSpec, side: Side, depth: tuple[str, ...]) -> bool:
    """Whether a cache line of an operand that is read directly serves many steps of the depth."""
    (slot,) = loads(side.expr)
    return coefficient(spec.reads[slot].address, depth[-1]) == 1


def _is_fixed(spec: FlatSpec, access: FlatAccess, batch: tuple[str, ...]) -> bool:
    """Whether an operand does not depend on symbols, by the extents that it ranges over or by its addresses."""
    used = variables(access.address, access.guard)
    if used & set(batch):
        used |= set(batch)  # they are numbered together
    return all(isinstance(x.extent, Const) for x in spec.axes if x.name in used) and not used & set(spec.symbol_bounds)


def _cycles(contraction: FedContraction, lanes: int) -> float:
    """A rough count of machine cycles, to choose between the two ways to feed the inner loop."""
    rows, cols = contraction.rows.points, contraction.cols.points
    depth, batch = contraction.depth_points, contraction.batch_points
    vectors = math.ceil(cols / lanes)
    # Two multiply-adds per cycle, and at least a load per cycle for the vectors.
    total = depth * vectors * max(rows / 2, 1.0)
    for side in (contraction.rows, contraction.cols):
        if side.feed == "panel":
            per_element = 3 / lanes if packs_by_vector(contraction.spec, side) else 1.5
            total += depth * side.points * per_element
    strides = [coefficient(x.address, COL) for x in contraction.tail.stores]
    total += rows * cols * (0.5 / lanes if all(x == 1 for x in strides) else 2.5)
    if contraction.cols.feed == "packed" and dtypes.size_of(contraction.dtype) == 4 and rows == 1:
        total *= 1.02  # a matrix that is used once is better left as it is, where that is possible
    return batch * total


def packs_by_vector(spec: FlatSpec, side: Side) -> bool:
    """Whether neighbouring points of the side's innermost axis lie close together in memory."""
    if not side.axes:
        return False
    strides = [coefficient(spec.reads[x].address, side.axes[-1]) for x in loads(side.expr)]
    return all(x is not None and 0 <= x <= 4 for x in strides)
