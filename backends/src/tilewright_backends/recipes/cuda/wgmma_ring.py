"""`cuda.wgmma_ring`: contractions of 16-bit operands that the tensor memory accelerator can fetch (sm_90a).

Warpgroups have roles: one fetches, the others multiply; blocks stay and take tile after tile.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.choice import Packing
from tilewright.ir.expr import Expr, const, maximum, minimum, select
from tilewright.recipes import Constraint, Match, Recipe, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.recipes.cuda.boxes import Boxes, boxes_of
from tilewright_backends.recipes.gpu import tensor
from tilewright_backends.recipes.gpu.common import ceil_div, divides, parameter, points
from tilewright_backends.recipes.gpu.packing import pack_operand
from tilewright_backends.recipes.operands import memory_bytes, operands_of

NAME = "cuda.wgmma_ring"
STEP = 64
FETCHER_REGISTERS = 40
MULTIPLIER_REGISTERS = 232
START_REGISTERS = {1: 255, 2: 168}
"""Registers of a thread when a block starts, by the number of warpgroups that multiply.

Where there are two, the warpgroup that fetches keeps `FETCHER_REGISTERS` and they take `MULTIPLIER_REGISTERS` each.
"""
LATENCY = 16
"""Steps (of 30 ns) from a fetch to the products of what it brings; as many stages as the ring has share it.

From an H200: the product of 256 × 3072 and 3072 × 768 takes 14.0 µs with three stages and 10.8 µs with eight.
"""
MOST_SUMS = 128
"""Sums of a thread: beyond, some would be spilled."""


@attrs.frozen
class RingDetail:
    """A contraction whose operands can be fetched: as boxes, or, where that is None, packed."""

    tensor: tensor.TensorDetail
    rows: Boxes | None
    columns: Boxes | None


def detail_of(kernel: KernelSpec) -> RingDetail | None:
    """The kernel's operands as boxes, or None when one of them cannot be fetched."""
    found = tensor.detail_of(kernel)
    if found is None:
        return None
    sides = [(x, boxes_of(found.spec, found.roles, x)) for x in (found.rows, found.columns)]
    if any(boxes is None and not operand.constant for operand, boxes in sides):
        return None
    return RingDetail(found, sides[0][1], sides[1][1])


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as this recipe sees it, or None when it is not of its kind."""
    if not (device.has("wgmma") and device.has("tma")):
        return None
    detail = detail_of(kernel)
    if detail is None:
        return None
    found = detail.tensor
    roles = found.roles
    m, n, k, batch = (points(x) for x in (roles.m, roles.n, roles.k, roles.batch))
    if min(m, n, k) < 2:
        return None
    parameters = (
        parameter("m.block", (64, 128, 256), align=64, role="m", level="shared"),
        parameter("n.block", (64, 128, 192, 256), align=64, role="n", level="shared"),
        parameter("m.group", (64, 128), align=64, role="m", level="register"),
        parameter("stages", (3, 4, 5, 6, 8)),
    )
    mb, nb, group, stages = (p.var for p in parameters)
    groups = maximum(mb // group, 1)
    threads = (groups + 1) * 128
    registers = select(groups < const(2), const(START_REGISTERS[1]), const(START_REGISTERS[2]))
    shared = (mb + nb) * STEP * 2 * stages + 2048
    trips = ceil_div(k, STEP)
    tiles = ceil_div(m, mb) * ceil_div(n, nb) * batch
    tasks = minimum(tiles, const(device.units))
    rounds = ceil_div(tiles, device.units)
    half = "fp16" if found.rows.dtype == "float16" else "bf16"
    waiting = maximum(const(8 * LATENCY) // stages - steps_at_peak(device, f"{half}.tensor", mb, nb), const(0))
    out = sum(points(found.spec.spatial) * dtypes.size_of(s.value.dtype) for s in found.spec.stores)
    axes = tensor.axes_of(found)
    packed = {x.slot: role for x, role, boxes in _sides(detail) if boxes is None}
    return Match(
        recipe=NAME,
        roles=axes,
        extents={"m": m, "n": n, "k": k, "batch": batch},
        parameters=parameters,
        constraints=(
            divides(group, mb, "warpgroups share the rows of a block evenly"),
            Constraint(nb, const(256), "columns of one instruction"),
            Constraint(mb, const(256), "rows of a box"),
            Constraint(group, const(128), "rows of a warpgroup"),
            Constraint(groups, const(2), "warpgroups that multiply"),
            Constraint(group * nb // 128, const(MOST_SUMS), "sums of a thread"),
            Constraint(const(2), stages, "the ring needs two stages"),
            Constraint(stages, const(16), "stages of the ring"),
            Constraint(shared, const(device.shared_per_block), "shared memory of a block"),
        ),
        usage=Usage(tasks, threads, registers, shared, 2 * stages),
        work=Work(
            # Every block takes as many tiles as the busiest one.
            flops=tasks * rounds * mb * nb * trips * STEP * 2,
            traffic={"dram": const(memory_bytes(found.spec)), "l2": tiles * (mb + nb) * trips * STEP * 2 + out},
            # Small tiles are limited by the loads that feed them.
            efficiency=mb * nb * 85 // (mb * nb + 4096),
            unit=f"{half}.tensor",
            serial=rounds * (trips * waiting // 8 + 40) + trips * 4 // stages + 30,
        ),
        operands=operands_of(found.spec, axes, packed=packed),
        tiles={"register": {"m": group, "n": nb, "k": const(16)}, "shared": {"m": mb, "n": nb, "k": const(STEP)}},
        packings=Packings(kernel, detail),
        detail=detail,
    )


def steps_at_peak(device: DeviceModel, unit: str, rows: Expr, columns: Expr) -> Expr:
    """Eighths of a step that the products of a stage take at the peak."""
    return rows * columns * STEP * 16 // max(int(device.peak[unit] / device.units * 30e-9), 1)


def _sides(detail: RingDetail) -> tuple[tuple[tensor.HalfOperand, str, Boxes | None], ...]:
    return (detail.tensor.rows, "m", detail.rows), (detail.tensor.columns, "n", detail.columns)


@attrs.frozen
class Packings:
    """Constant operands that cannot be fetched as they lie, stored as [tile][k][point of the tile]."""

    kernel: KernelSpec
    detail: RingDetail

    def __call__(self, params: Mapping[str, int]) -> tuple[Packing, ...]:
        k = self.detail.tensor.roles.k
        return tuple(
            pack_operand(self.kernel, operand.slot, operand.outer, k, params[f"{role}.block"], STEP)
            for operand, role, boxes in _sides(self.detail)
            if boxes is None
        )


# Warpgroups hand over registers, which are those of the whole kernel, and tensor maps are parameters.
RECIPE = Recipe(NAME, "cuda", match, priority=45, embeddable=False)
