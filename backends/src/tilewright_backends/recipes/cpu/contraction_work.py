"""What a choice of `cpu.contraction` costs: cycles of the core, bytes from each cache.

The numbers were measured on a Zen 3 core (AVX2) over tiles and blocks of many shapes. Of the 28 different products of
ResNet-50 on one thread, the chosen kernels were predicted to take 132 ms together and took 136 ms. Where a core begins
one multiply-add of its widest vectors in a cycle, they were measured on a Zen 4 core (AVX-512): there arithmetic is
what every tile of four sums and more waits for.
"""

from __future__ import annotations

import attrs

from tilewright.device import DeviceModel
from tilewright.ir.expr import Expr, const, loads, maximum, minimum, select, variables
from tilewright.recipes import Work
from tilewright_backends.lower.flat import coefficient
from tilewright_backends.recipes.cpu.common import ceil_div
from tilewright_backends.recipes.cpu.roles import COL, ROW, FedContraction, Side, packs_by_vector
from tilewright_backends.recipes.operands import memory_bytes

_LINE = 64
_CHAIN = 9
"""Half cycles from one sum to the next of a chain."""
_PER_STORED_VECTOR = 5
"""Cycles to start, round and store a vector of a tile's sums, and to keep it between two steps of the depth."""
_PER_PACKED_VECTOR = {True: 3, False: 12}
"""Cycles to pack a vector whose elements lie together, or apart."""
_PER_ROW = 25
"""Cycles to begin a row of points in memory, when a panel is packed: it lies on another page than the one before."""
_PER_READ_ROW = 60
"""Cycles to begin a row of an operand that the epilogue reads: nothing has fetched it."""


@attrs.frozen
class Sizes:
    """A choice's parameters as expressions.

    Args:
        rows: of the register tile.
        vectors: of the register tile, side by side.
        lanes: of a vector.
        outer, inner: rows of the block and points in each.
        other: points of the other side's block.
        depth: points of the first depth axis in a step.
    """

    rows: Expr
    vectors: Expr
    lanes: Expr
    outer: Expr
    inner: Expr
    other: Expr
    depth: Expr


def work_of(found: FedContraction, sizes: Sizes, device: DeviceModel) -> Work:
    """Multiply-adds and what goes with them as multiply-adds in their place, and the bytes moved."""
    blocked, other = found.blocked, found.other
    element = 4 if found.dtype != "float64" else 8
    columns = sizes.vectors * sizes.lanes
    tile = {id(found.rows): sizes.rows, id(found.cols): columns}
    block_tiles = ceil_div(sizes.outer * sizes.inner, tile[id(blocked)])
    blocks = ceil_div(blocked.outer_points, sizes.outer) * ceil_div(blocked.last, sizes.inner) * found.batch_points
    other_block = minimum(sizes.other, const(other.points))
    other_tiles = ceil_div(other_block, tile[id(other)])
    other_tasks = ceil_div(other.points, sizes.other)
    tasks = blocks * other_tasks
    pairs = tasks * block_tiles * other_tiles
    depth = found.depth_points
    depth_steps = ceil_div(found.depth_extents[0], sizes.depth)
    held = ceil_div(const(depth), depth_steps)

    near = device.level("l1").bytes * 3 // 4
    streamed = sizes.inner % tile[id(blocked)]  # 0: image rows are whole tiles, which are packed one by one
    read = {id(x): _bytes_per_step(x, found, tile[id(x)], streamed, element) for x in (blocked, other)}
    again = select(read[id(other)] * held <= const(near), const(0), read[id(other)])
    l2 = pairs * depth * (read[id(blocked)] + again)

    cycles = pairs * depth * _half_cycles(found, sizes, device) // 2
    if device.vector_fmas == 1:
        cycles, l2 = maximum(cycles, l2 // _LINE * 2), const(0)  # lines come meanwhile, one in two cycles
    else:
        cycles += l2 // _LINE  # a line takes a cycle off the arithmetic
    cycles += pairs * sizes.rows * sizes.vectors * (depth_steps + 1) * _PER_STORED_VECTOR
    if blocked.feed == "panel":
        vector = _PER_PACKED_VECTOR[packs_by_vector(found.spec, blocked)]
        vectors = block_tiles * tile[id(blocked)] // sizes.lanes + sizes.outer
        cycles += tasks * depth * (vectors * vector + sizes.outer * _PER_ROW)
    cycles += other.points * blocks * sizes.outer * _epilogue_reads(found) * _PER_READ_ROW

    part, whole = other_block * depth * element, const(other.points * depth * element * found.batch_points)
    fits = part <= const(device.level("l2").bytes // 2)
    l3 = select(fits, whole, whole * ceil_div(blocks, found.batch_points))
    return Work(
        flops=cycles * sizes.lanes * 2 * device.vector_fmas,
        traffic={"dram": const(memory_bytes(found.spec)), "l3": l3, "l2": l2},
        efficiency=const(100),
        serial=const(1),
    )


def _half_cycles(found: FedContraction, sizes: Sizes, device: DeviceModel) -> Expr:
    """Half cycles of one step of the inner loop.

    At least the latency of a chain of sums. With one multiply-add a cycle, nothing else hinders it. With two, what was
    measured of tiles of many shapes: loads and multiply-adds share the ways into the core. Beside a single vector, LLVM
    keeps some of eight sums and more on the stack. Every row that is read directly has an address of its own, and there
    are registers for seven.
    """
    sums = sizes.rows * sizes.vectors
    if device.vector_fmas == 1:
        return maximum(sums * 2, const(_CHAIN))
    taken = maximum((sums + sizes.rows + sizes.vectors) * 7 // 10, const(_CHAIN))
    single = select(sizes.vectors < const(2), sizes.rows, const(0))
    taken += select(single < const(8), const(0), taken // 3)
    if found.rows.feed == "direct":
        taken += maximum(sizes.rows - 7, const(0)) * 4
    return taken


def _bytes_per_step(side: Side, found: FedContraction, tile: Expr, rest: Expr, element: int) -> Expr:
    """Bytes of the cache lines that a tile's points at one step of the depth take up.

    Args:
        rest: points of an image row of the panel beyond whole tiles.
    """
    if side.feed == "packed" or (side.feed == "panel" and side is found.cols):
        return tile * element
    if side.feed == "panel":
        return select(rest < const(1), tile * element, maximum(tile * element, const(_LINE)))
    strides = {x: coefficient(_access(side, found), x) for x in (*side.axes[-1:], *found.depth[-1:])}
    if strides[found.depth[-1]] == 1:
        return tile * element  # each row has a line of its own, and it serves many steps
    return maximum(tile * element, const(_LINE)) if strides.get(side.axes[-1]) == 1 else tile * _LINE


def _access(side: Side, found: FedContraction) -> Expr:
    """Where a direct operand lies."""
    (slot,) = loads(side.expr)
    return found.spec.reads[slot].address


def _epilogue_reads(found: FedContraction) -> int:
    """How many operands the epilogue reads at every point."""
    reads = found.tail.reads[found.tail.body_reads :]
    return sum({ROW, COL} <= variables(x.address) for x in reads)
