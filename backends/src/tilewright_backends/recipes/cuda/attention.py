"""`cuda.attention`: softmax between contractions of float16 or bfloat16, in one pass over the keys (from sm_80 on)."""

from __future__ import annotations

from tilewright.device import DeviceModel
from tilewright.ir.expr import Expr, const, minimum
from tilewright.recipes import Constraint, Match, Recipe, Usage, Work
from tilewright.views.staged import StagedSpec
from tilewright_backends.recipes.cuda.mma import ALIGNMENT
from tilewright_backends.recipes.gpu.common import block_limits, ceil_div, divides, operations, parameter
from tilewright_backends.recipes.gpu.flat_attention import (
    Attention,
    Halves,
    beside,
    edges,
    flat_attention,
    halves_of,
    operands_of_attention,
    sizes_of,
)
from tilewright_backends.recipes.gpu.tensor import CHUNK, HalfOperand
from tilewright_backends.recipes.rows import memory_bytes

NAME = "cuda.attention"
_POWER = 18
"""Instructions for a score besides its epilogue: maximum, difference, power, sum, rounding."""

_MOST_REGISTERS = 288
"""What the assembler would like is more than what it needs: up to here it has never spilled into memory."""

_MOST_GATHERED = 16
"""The address of every element that is loaded ahead stays in registers over all steps: two to an element."""


def match(staged: StagedSpec, device: DeviceModel) -> Match | None:
    """The stages as attention, or None when they are not, or the heads are too wide."""
    if not device.has("mma.sync"):
        return None
    found = flat_attention(staged)
    halves = halves_of(found) if found is not None else None
    if found is None or halves is None:
        return None
    sizes = sizes_of(found, 16, 16)
    if sizes is None:
        return None
    depth, columns = sizes.depth, sizes.columns
    most = 2 * max(sizes.rows, 16 if halves.key.chunked and halves.value.chunked else 64)
    parameters = (
        parameter("rows.block", [x for x in (16, 32, 64, 128) if x < most], align=16, role="rows"),
        parameter("keys.step", [x for x in (32, 64, 128) if x < 2 * max(sizes.keys, 32)], align=16, role="keys"),
        parameter("stages", (2, 3)),
    )
    block, step, stages = (p.var for p in parameters)
    threads = ceil_div(block, 16) * device.warp
    tiles = ((block, depth, const(1)), (step, depth, stages), (step, columns, stages))
    shared: Expr = const(256)
    loads: Expr = const(0)
    gathered: list[Expr] = []
    for (number, width, times), operand in zip(tiles, (halves.query, halves.key, halves.value), strict=True):
        shared = shared + ceil_div(number * width * 2 * times, ALIGNMENT) * ALIGNMENT
        mine = ceil_div(number * width, threads * CHUNK)
        loads = loads + mine
        gathered.append(mine * CHUNK // 2 if not operand.chunked else const(0))
    ahead = gathered[1] + gathered[2]
    fixed = depth * 3 // 8 + columns * 5 // 8 + 4 * found.epilogue_reads + 64
    wanted = const(fixed) + step + gathered[0] + ahead + loads
    registers = minimum(wanted, const(255))
    trips, tasks, scored = sizes.trips(step), sizes.tasks(block), sizes.scored(block, step)
    fragments = threads // device.warp * trips * step * (depth + columns) * 2
    return Match(
        recipe=NAME,
        roles=found.names,
        extents=sizes.extents,
        parameters=parameters,
        constraints=(
            divides(block, 128, "rows of a block are a power of two"),
            divides(step, 128, "keys of a step are a power of two"),
            Constraint(const(2), stages, "the ring needs two stages"),
            Constraint(wanted, const(_MOST_REGISTERS), "registers, some of which a thread can do without"),
            Constraint(gathered[0], const(64), "registers that a thread loads ahead"),
            Constraint(ahead, const(_MOST_GATHERED), "registers that a thread loads ahead for a step"),
            Constraint(loads, const(40), "copies that a thread starts for a step"),
            *block_limits(threads, registers, shared, device),
        ),
        usage=Usage(tasks, threads, registers, shared, const(1)),
        work=Work(
            flops=sizes.flops(block, step),
            traffic={
                "dram": const(memory_bytes(staged)),
                "l2": tasks * trips * step * (depth + columns) * 2 + scored * beside(found) + edges(found),
                "shared": tasks * fragments,
            },
            efficiency=const(_efficiency(found, halves, device)),
            unit=_unit(halves.query),
            serial=trips * 24 // stages + 20,
        ),
        operands=operands_of_attention(found),
        tiles={
            "register": sizes.tile(const(16), step),
            "shared": sizes.tile(block, step),
        },
        detail=(found, halves),
    )


def _unit(operand: HalfOperand) -> str:
    return "fp16.mma" if operand.dtype == "float16" else "bf16.mma"


def _efficiency(found: Attention, halves: Halves, device: DeviceModel) -> int:
    """Percent of the tensor cores' peak: a score's powers and epilogue are other instructions, in the same warps."""
    unit = _unit(halves.query)
    peak = device.peak.get(unit, device.peak["fma"])
    products = 2 * (found.depth(16) + found.columns(16)) / peak
    gathered = sum(not x.chunked for x in (halves.key, halves.value))
    steps = _POWER + operations(*(s.expr for s in found.scores.stores)) + 4 * beside(found)
    others = steps / (device.peak["fma"] / 2)
    return max(int(75 * products / (products + others)) // (1 + gathered), 1)


RECIPE = Recipe(NAME, "cuda", match, priority=30, takes=StagedSpec)
