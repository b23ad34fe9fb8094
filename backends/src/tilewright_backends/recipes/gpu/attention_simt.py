"""`attention_simt`: softmax between two contractions in one pass over the keys, without tensor cores."""

from __future__ import annotations

from tilewright.device import DeviceModel
from tilewright.ir.expr import Expr, const, minimum
from tilewright.recipes import Constraint, Match, Usage, Work
from tilewright.views.staged import StagedSpec
from tilewright_backends.recipes.gpu.common import block_limits, ceil_div, divides, on_gpus, operations, parameter
from tilewright_backends.recipes.gpu.flat_attention import (
    Attention,
    beside,
    edges,
    flat_attention,
    operands_of_attention,
    sizes_of,
)
from tilewright_backends.recipes.rows import memory_bytes

NAME = "attention_simt"
LANES = 4
"""Points of the depth, and keys, that a thread takes from shared memory at once."""
_POWER = 24
"""Instructions for a score besides its epilogue: maximum, difference, power, sum, rounding, handing over."""


def match(staged: StagedSpec, device: DeviceModel) -> Match | None:
    """The stages as attention, or None when they are not, or the heads are too wide."""
    found = flat_attention(staged)
    if found is None:
        return None
    warp = device.warp
    sizes = sizes_of(found, LANES, warp)
    if sizes is None:
        return None
    depth, columns = sizes.depth, sizes.columns
    parameters = (
        parameter("rows.warp", (1, 2, 4, 8), role="rows", level="register"),
        parameter("warps", (1, 2, 4, 8)),
        parameter("keys.step", [x for x in (warp, 64) if x < 2 * max(sizes.keys, warp)], align=warp, role="keys"),
    )
    mine, warps, step = (p.var for p in parameters)
    block = mine * warps
    threads = warps * warp
    ahead = ceil_div(step * (depth + columns), threads) + ceil_div(block * depth, threads)
    shared = (block * depth + step * (depth + LANES + columns) + block * step) * 4 + 256
    fixed = 84 + 4 * found.epilogue_reads
    wanted = mine * (step // warp + columns // warp + 8) + ahead + step // warp * 4 + const(fixed)
    registers: Expr = minimum(wanted, const(255))
    trips, tasks, scored = sizes.trips(step), sizes.tasks(block), sizes.scored(block, step)
    # Words that a warp reads at once per score: of its keys and queries, of values and weights.
    reads = depth // LANES + columns // warp
    return Match(
        recipe=f"{device.kind}.{NAME}",
        roles=found.names,
        extents=sizes.extents,
        parameters=parameters,
        constraints=(
            divides(mine, 8, "rows of a warp are a power of two"),
            divides(warps, 8, "warps are a power of two"),
            divides(step, 64, "keys of a step are one or two for each lane"),
            Constraint(ahead, const(64), "elements that a thread loads ahead"),
            *block_limits(threads, registers, shared, device),
        ),
        usage=Usage(tasks, threads, registers, shared, const(1)),
        work=Work(
            flops=sizes.flops(block, step),
            traffic={
                "dram": const(memory_bytes(staged)),
                "l2": tasks * trips * step * (depth + columns) * 4 + scored * beside(found) + edges(found),
                "shared": scored * reads * 16 // mine + scored * reads,
            },
            efficiency=mine * _efficiency(found, depth, columns) // (mine + 2),
            serial=trips * 24 + 20,
        ),
        operands=operands_of_attention(found),
        tiles={
            "register": {"rows": mine, "keys": step // warp, "columns": const(max(columns // warp, 1))},
            "shared": sizes.tile(block, step),
        },
        detail=found,
    )


def _efficiency(found: Attention, depth: int, columns: int) -> int:
    """Percent of the peak: a score's powers and its epilogue take issue slots as its products do."""
    others = _POWER + operations(*(s.expr for s in found.scores.stores)) + 4 * beside(found)
    return max(80 * (depth + columns) // (depth + columns + others), 1)


CUDA, ROCM = on_gpus(NAME, match, 10, takes=StagedSpec)
