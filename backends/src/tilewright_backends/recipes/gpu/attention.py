"""What recipes share that take attention to tensor cores or matrix units: tiles of 16-bit operands, work, sizes."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.device import DeviceModel
from tilewright.ir.expr import Expr, const
from tilewright.recipes import Constraint, Match, Parameter, Usage, Work
from tilewright.views.staged import StagedSpec
from tilewright_backends.recipes.gpu.common import block_limits, ceil_div, divides, operations, parameter
from tilewright_backends.recipes.gpu.flat_attention import (
    Attention,
    Halves,
    Sizes,
    beside,
    edges,
    flat_attention,
    halves_of,
    operands_of_attention,
    sizes_of,
)
from tilewright_backends.recipes.gpu.tensor import ALIGNMENT, CHUNK, warp_unit
from tilewright_backends.recipes.rows import memory_bytes

SIDE = 16
"""What rows, depth and columns are taken up to whole multiples of."""
_POWER = 18
"""Instructions for a score besides its epilogue: maximum, difference, power, sum, rounding."""


@attrs.frozen
class Heads:
    """Attention whose factors are of 16 bits, on a device that multiplies such.

    Args:
        unit: the peak of the device that counts.
    """

    staged: StagedSpec
    device: DeviceModel
    found: Attention
    halves: Halves
    sizes: Sizes
    unit: str


def heads_of(staged: StagedSpec, device: DeviceModel) -> Heads | None:
    """The stages as attention, or None when they are not, or the heads are too wide."""
    found = flat_attention(staged)
    halves = halves_of(found) if found is not None else None
    if found is None or halves is None:
        return None
    sizes, unit = sizes_of(found, SIDE, SIDE), warp_unit(device, halves.query.dtype)
    return None if sizes is None or unit is None else Heads(staged, device, found, halves, sizes, unit)


@attrs.frozen
class Tiling:
    """Sizes as formulas.

    Args:
        block, step: rows of a block, keys of a step.
        warp: rows of a warp.
        stages: of keys and values in shared memory.
    """

    heads: Heads
    block: Expr
    step: Expr
    warp: Expr
    stages: Expr

    @property
    def threads(self) -> Expr:
        return ceil_div(self.block, self.warp) * self.heads.device.warp

    def _tiles(self) -> tuple[tuple[Expr, int, Expr], ...]:
        """Of queries, keys and values: how many, how wide, how many times."""
        depth, columns = self.heads.sizes.depth, self.heads.sizes.columns
        return (self.block, depth, const(1)), (self.step, depth, self.stages), (self.step, columns, self.stages)

    def shared(self) -> Expr:
        """Bytes of shared memory."""
        total: Expr = const(0)
        for number, width, times in self._tiles():
            total = total + ceil_div(number * width * 2 * times, ALIGNMENT) * ALIGNMENT
        return total

    def loads(self) -> list[Expr]:
        """Chunks that a thread loads of a tile of queries, keys and values."""
        return [ceil_div(number * width, self.threads * CHUNK) for number, width, _ in self._tiles()]


def parameters_of(heads: Heads, least: int) -> tuple[Parameter, Parameter]:
    """Rows of a block and keys of a step.

    Args:
        least: rows that a block may have however few there are, so that threads enough load the keys.
    """
    most = 2 * max(heads.sizes.rows, least)
    return (
        parameter("rows.block", [x for x in (16, 32, 64, 128) if x < most], align=SIDE, role="rows"),
        parameter(
            "keys.step", [x for x in (32, 64, 128) if x < 2 * max(heads.sizes.keys, 32)], align=SIDE, role="keys"
        ),
    )


def described(
    recipe: str,
    tiling: Tiling,
    parameters: Sequence[Parameter],
    registers: Expr,
    constraints: Sequence[Constraint],
    spare: int = 0,
) -> Match:
    """The match of a recipe.

    Args:
        registers: of a thread.
        constraints: of the recipe's own.
        spare: bytes of shared memory besides the tiles.
    """
    heads, block, step = tiling.heads, tiling.block, tiling.step
    found, sizes, device = heads.found, heads.sizes, heads.device
    threads, shared = tiling.threads, tiling.shared() + spare
    depth, columns = sizes.depth, sizes.columns
    trips, tasks, scored = sizes.trips(step), sizes.tasks(block), sizes.scored(block, step)
    fragments = threads // device.warp * trips * step * (depth + columns) * 2
    return Match(
        recipe=recipe,
        roles=found.names,
        extents=sizes.extents,
        parameters=tuple(parameters),
        constraints=(
            divides(block, 128, "rows of a block are a power of two"),
            divides(step, 128, "keys of a step are a power of two"),
            *constraints,
            *block_limits(threads, registers, shared, device),
        ),
        usage=Usage(tasks, threads, registers, shared, const(1)),
        work=Work(
            flops=sizes.flops(block, step),
            traffic={
                "dram": const(memory_bytes(heads.staged)),
                "l2": tasks * trips * step * (depth + columns) * 2 + scored * beside(found) + edges(found),
                "shared": tasks * fragments,
            },
            efficiency=const(_efficiency(heads)),
            unit=heads.unit,
            serial=trips * 24 // tiling.stages + 20,
        ),
        operands=operands_of_attention(found),
        tiles={
            "register": sizes.tile(tiling.warp, step),
            "shared": sizes.tile(block, step),
        },
        detail=(found, heads.halves),
    )


def _efficiency(heads: Heads) -> int:
    """Percent of the tensor cores' peak: a score's powers and epilogue are other instructions, in the same warps."""
    found, device = heads.found, heads.device
    peak = device.peak.get(heads.unit, device.peak["fma"])
    products = 2 * (found.depth(SIDE) + found.columns(SIDE)) / peak
    gathered = sum(not x.chunked for x in (heads.halves.key, heads.halves.value))
    steps = _POWER + operations(*(s.expr for s in found.scores.stores)) + 4 * beside(found)
    others = steps / (device.peak["fma"] / 2)
    return max(int(75 * products / (products + others)) // (1 + gathered), 1)
