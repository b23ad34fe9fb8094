"""`topk_sort`: a block sorts a row, in pieces if need be, in shared memory. For rows and counts that fit there."""

from __future__ import annotations

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.expr import Expr, const, select
from tilewright.ir.ops import Routine
from tilewright.recipes import Constraint, Match, Usage, Work
from tilewright_backends.recipes.gpu.common import block_limits, ceil_div, divides, on_gpus, parameter, powers
from tilewright_backends.recipes.selection import memory_bytes, row_operands, topk_of

NAME = "topk_sort"
_ALIGNMENT = 16


def match(routine: Routine, device: DeviceModel) -> Match | None:
    """The routine as a selection: how many elements are sorted at a time, by how many threads."""
    found = topk_of(routine)
    if found is None or not found.length:
        return None
    # The best so far stay in the piece, so it must have room for more unless it holds the whole row.
    fewest = min(found.length, found.count + 1)
    slot_bytes = dtypes.size_of(routine.inputs[0].dtype) + dtypes.size_of("int32")
    fits = (device.shared_per_block - _ALIGNMENT) // slot_bytes
    shortest = 2 * device.warp  # every lane compares a pair
    most = max(shortest, 1 << (found.length - 1).bit_length())
    candidates = [x for x in powers(shortest, most) if fewest <= x <= fits]
    if not candidates:
        return None
    parameters = (
        parameter("piece", candidates, role="length", level="shared"),
        parameter("threads", powers(device.warp, device.max_threads_per_block), role="length", level="block"),
    )
    piece, threads = (p.var for p in parameters)
    registers, shared = const(48), piece * slot_bytes + _ALIGNMENT
    fresh = select(const(found.length) <= piece, piece, piece - found.count)
    rounds = const(1) + ceil_div(select(piece < found.length, const(found.length) - piece, const(0)), fresh)
    doublings = _doublings(candidates[-1], piece)
    stages = doublings * (doublings + 1) // 2
    return Match(
        recipe=f"{device.kind}.{NAME}",
        roles={"rows": (), "length": (), "count": ()},
        extents={"rows": found.rows, "length": found.length, "count": found.count},
        parameters=parameters,
        constraints=(
            Constraint(const(fewest), piece, "a piece holds the row, or the best elements and one more"),
            divides(piece, candidates[-1], "pieces are powers of two"),
            divides(threads * 2, piece, "every thread compares as many pairs"),
            *block_limits(threads, registers, shared, device),
        ),
        usage=Usage(const(max(found.rows, 1)), threads, registers, shared),
        work=Work(
            flops=rounds * stages * (piece // 2) * (found.rows * 20),
            traffic={
                "dram": const(memory_bytes(routine)),
                "shared": rounds * stages * piece * (found.rows * 2 * slot_bytes),
            },
            efficiency=const(30),
            serial=rounds * (stages * (const(1) + piece // (threads * 4)) + 8),
        ),
        operands=row_operands(routine, found),
        tiles={"shared": {"length": piece, "count": const(found.count)}},
        detail=found,
    )


def _doublings(largest: int, piece: Expr) -> Expr:
    """The logarithm of the piece to base 2."""
    total: Expr = const(0)
    for power in powers(2, largest):
        total = total + select(const(power) <= piece, const(1), const(0))
    return total


CUDA, ROCM = on_gpus(NAME, match, 0, takes=Routine)
