"""`cpu.contraction`: products on a register tile, fed from packed constants and cache-resident panels.

Matrix products, batched ones, convolutions (grouped ones too) and products of a matrix and a vector. Guards, padding
and strides of the operand that is packed per task are resolved while its panel is written, so the inner loop is the
same for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.choice import Packing
from tilewright.ir.expr import Const, Expr, Var, const, number_of, select, variables
from tilewright.recipes import Constraint, Match, Parameter, Recipe, Usage
from tilewright.views.kernel import KernelSpec
from tilewright_backends.lower.flat import split_number
from tilewright_backends.recipes.cpu.common import ceil_div, is_static, sizes
from tilewright_backends.recipes.cpu.contraction_work import Sizes, work_of
from tilewright_backends.recipes.cpu.roles import FedContraction, Side, fed_contraction_of
from tilewright_backends.recipes.operands import operands_of

NAME = "cpu.contraction"
MAX_INNER = 256
"""Columns up to which a panel holds whole image rows; longer rows are cut."""

_ROW_TILES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14)
_COL_VECTORS = (1, 2, 3, 4)


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as a contraction: register tile, block of the panel's side, block of the other, step of the depth."""
    element = 8 if _wide(kernel) else 4
    lanes = max(device.vector_bytes // element, 1)
    found = fed_contraction_of(kernel, lanes)
    if found is None:
        return None
    rows, cols, blocked, other = found.rows, found.cols, found.blocked, found.other
    vectors = math.ceil(cols.points / lanes)
    mr = Parameter(
        "rows.tile", tuple(x for x in _ROW_TILES if x == 1 or x <= rows.points), role="rows", level="register"
    )
    nv = Parameter("cols.vectors", tuple(x for x in _COL_VECTORS if x <= vectors), role="cols", level="register")
    blocked_role, other_role = ("cols", "rows") if blocked is cols else ("rows", "cols")
    inner, outer = _block_sizes(blocked, blocked_role, lanes if blocked is cols else 1)
    step = lanes if other is cols else 1
    other_block = Parameter("other.block", sizes(other.points, step), align=step, role=other_role, level="l2")
    depth = Parameter("depth.block", sizes(found.depth_extents[0]), role="depth", level="l1")
    fixed = Parameter("lanes", (lanes,))
    parameters = (fixed, mr, nv, outer, inner, other_block, depth)
    tile = {id(rows): mr.var, id(cols): nv.var * lanes}
    block = outer.var * inner.var
    panel_points = _padded(block, tile[id(blocked)])
    inner_depth = math.prod(found.depth_extents[1:])
    steps = depth.var * inner_depth
    several = depth.var < const(found.depth_extents[0])
    panel = panel_points * steps * element if blocked.feed == "panel" else const(0)
    sums = select(several, panel_points * _padded(other_block.var, tile[id(other)]) * element, const(0))
    registers = mr.var * nv.var + nv.var + 1
    constraints = [
        Constraint(registers, const(device.vector_registers), "vector registers"),
        Constraint(panel + sums, const(_cache_share(device)), "cache for the panel and the partial sums"),
        Constraint(const(blocked.outer_points) % outer.var, const(0), "blocks share whole rows evenly"),
    ]
    # Packed constants are found by the number of their tile.
    for side, block_points, name in ((blocked, inner.var, "block"), (other, other_block.var, "other side's block")):
        if side.feed == "packed":
            broken = select(block_points < const(side.points), block_points % tile[id(side)], const(0))
            constraints.append(Constraint(broken, const(0), f"the {name} in whole tiles, or all points"))
    blocks = ceil_div(blocked.outer_points, outer.var) * ceil_div(blocked.last, inner.var)
    other_tasks = ceil_div(other.points, other_block.var)
    tasks = blocks * other_tasks * found.batch_points
    roles = {"batch": found.batch, "rows": rows.axes, "cols": cols.axes, "depth": found.depth}
    packed = {x.slot: role for role, x in (("rows", rows), ("cols", cols)) if x.feed == "packed"}
    chosen = Sizes(mr.var, nv.var, const(lanes), outer.var, inner.var, other_block.var, depth.var)
    return Match(
        recipe=NAME,
        roles=roles,
        extents={
            "batch": found.batch_points,
            "rows": rows.points,
            "cols": cols.points,
            "depth": found.depth_points,
        },
        parameters=parameters,
        constraints=tuple(constraints),
        usage=Usage(tasks=tasks, registers=registers, shared_bytes=panel + sums),
        work=work_of(found, chosen, device),
        operands=operands_of(found.spec, roles, packed=packed),
        tiles={
            "register": {"rows": mr.var, "cols": nv.var * lanes},
            "l1": {"rows": mr.var, "cols": nv.var * lanes, "depth": steps},
            "l2": {blocked_role: block, other_role: other_block.var, "depth": steps},
        },
        packings=_packings(found),
        count=None if is_static(found.spec) else _count(found, inner, outer, other_block),
        detail=found,
    )


def _count(found: FedContraction, inner: Parameter, outer: Parameter, other_block: Parameter) -> Expr:
    """The number of tasks by the values of the symbols."""
    blocks = ceil_div(found.blocked.outer_count, outer.var) * ceil_div(found.blocked.last_count, inner.var)
    return blocks * ceil_div(found.other.count, other_block.var) * number_of(found.batch_counts)


def _wide(kernel: KernelSpec) -> bool:
    return kernel.combiner is not None and dtypes.size_of(kernel.combiner.dtypes[0]) == 8


def _padded(points: Expr, tile: Expr) -> Expr:
    return ceil_div(points, tile) * tile


def _cache_share(device: DeviceModel) -> int:
    """Bytes of the second level that a task may fill with its own data."""
    return max(min(device.level("l2").bytes * 3 // 4, 1 << 20), 1 << 16)


def _block_sizes(side: Side, role: str, step: int) -> tuple[Parameter, Parameter]:
    """Points of the innermost axis and of the others in a block. Either whole rows, or a piece of one."""
    last = side.last
    fixed = all(isinstance(x, Const) for x in side.counts)
    if fixed and side.feed == "panel" and last <= MAX_INNER and side.outer_points > 1:
        rows = Parameter("block.outer", _divisors(side.outer_points), role=role, level="l2")
        return Parameter("block.inner", (last,)), rows
    multiples = sizes(last, step if last >= step else 1)
    extra = tuple(3 * x for x in multiples if 3 * x < last)
    candidates = tuple(sorted({*multiples, *extra}))
    return Parameter("block.inner", candidates, role=role, level="l2"), Parameter("block.outer", (1,))


def _divisors(number: int) -> tuple[int, ...]:
    return tuple(x for x in range(1, number + 1) if number % x == 0)


def _packings(found: FedContraction) -> Callable[[Mapping[str, int]], tuple[Packing, ...]]:
    def packings(params: Mapping[str, int]) -> tuple[Packing, ...]:
        tiles = (
            (found.rows, params["rows.tile"]),
            (found.cols, params["cols.vectors"] * params["lanes"]),
        )
        return tuple(packing_of(found, side, tile) for side, tile in tiles if side.feed == "packed")

    return packings


def packing_of(found: FedContraction, side: Side, tile: int) -> Packing:
    """Constants as [batch, tile, depth, point of the tile], points beyond the end zero."""
    access = found.spec.reads[side.slot]
    used = variables(access.address, access.guard)
    batch_points = found.batch_points if used & set(found.batch) else 1
    dims = (
        ("b", batch_points),
        ("t", -(-side.points // tile)),
        ("k", found.depth_points),
        ("i", tile),
    )
    at: dict[str, Expr] = {}
    if all(isinstance(x, Const) for x in found.batch_counts):  # otherwise the operand varies with none of these
        at |= _digits(found, found.batch, Var("b"))
    at |= _digits(found, side.axes, Var("t") * tile + Var("i"))
    at |= _digits(found, found.depth, Var("k"))
    return Packing(side.slot, dims, tuple((name, expr) for name, expr in at.items()))


def _digits(found: FedContraction, names: tuple[str, ...], number: Expr) -> dict[str, Expr]:
    """The values of the kernel's own axes that fused axes stand for."""
    parts = [x for name in names for x in found.spec.origin[name]]
    sizes_ = [int(x.extent.value) for x in parts if isinstance(x.extent, Const)]
    return dict(zip((x.name for x in parts), split_number(number, sizes_), strict=True))


RECIPE = Recipe(NAME, "cpu", match, priority=0)
