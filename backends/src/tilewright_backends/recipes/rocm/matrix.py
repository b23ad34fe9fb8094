"""`rocm.matrix`: contractions of float16 or bfloat16 operands on the matrix units, summed in float32."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.choice import Packing
from tilewright.ir.expr import const, maximum
from tilewright.recipes import Constraint, Match, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.recipes.gpu.common import (
    block_limits,
    ceil_div,
    divides,
    memory_bytes,
    on_rocm,
    parameter,
    points,
    powers,
)
from tilewright_backends.recipes.gpu.packing import pack_operand
from tilewright_backends.recipes.gpu.tensor import TensorDetail, axes_of, detail_of, packed_slots, packs
from tilewright_backends.recipes.operands import operands_of
from tilewright_backends.recipes.rocm.units import SIDE, unit_for

NAME = "matrix"
STAGES = 2
"""Tiles of each operand in shared memory: one is multiplied, the next one is filled."""


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as this recipe sees it, or None when it is not of its kind."""
    unit = unit_for(device)
    detail = detail_of(kernel) if unit is not None else None
    if unit is None or detail is None:
        return None
    roles = detail.roles
    m, n, k, batch = (points(x) for x in (roles.m, roles.n, roles.k, roles.batch))
    if min(m, n) < SIDE // 2:
        return None
    parameters = (
        parameter("m.block", _sizes(m), align=SIDE, role="m", level="shared"),
        parameter("n.block", _sizes(n), align=SIDE, role="n", level="shared"),
        parameter("k.step", (32, 64), align=SIDE, role="k", level="shared"),
        parameter("m.warp", (16, 32, 64), align=SIDE, role="m", level="register"),
        parameter("n.warp", (16, 32, 64), align=SIDE, role="n", level="register"),
    )
    mb, nb, ks, mw, nw = (p.var for p in parameters)
    threads = maximum((mb // mw) * (nb // nw), 1) * device.warp
    shared = (mb + nb) * ks * (2 * STAGES)
    ahead = ceil_div(mb * ks, threads * 2) + ceil_div(nb * ks, threads * 2) + 8
    # LLVM loads what the next instructions multiply while these run.
    fragments = (mw // SIDE + nw // SIDE) * unit.held
    registers = mw * nw // device.warp + fragments + ahead + 70
    tasks = ceil_div(m, mb) * ceil_div(n, nb) * batch
    trips = ceil_div(k, ks)
    out = sum(points(detail.spec.spatial) * dtypes.size_of(s.value.dtype) for s in detail.spec.stores)
    gathered = sum(not (x.chunked or x.constant) for x in (detail.rows, detail.columns))
    turned = sum(packs(x) or not x.along_k for x in (detail.rows, detail.columns))
    half = "fp16" if detail.rows.dtype == "float16" else "bf16"
    area = mw * nw
    axes = axes_of(detail)
    return Match(
        recipe=f"rocm.{NAME}",
        roles=axes,
        extents={"m": m, "n": n, "k": k, "batch": batch},
        parameters=parameters,
        constraints=(
            divides(mw, mb, "waves share the rows of a block evenly"),
            divides(nw, nb, "waves share the columns of a block evenly"),
            divides(ks, 64, "steps of the reduction are 16, 32 or 64"),
            Constraint(ahead, const(72), "registers that a thread loads ahead"),
            *block_limits(threads, registers, shared, device),
        ),
        usage=Usage(tasks, threads, registers, shared),
        work=Work(
            flops=tasks * mb * nb * trips * ks * 2,
            traffic={
                "dram": const(memory_bytes(detail.spec)),
                "l2": tasks * (mb + nb) * trips * ks * 2 + out,
                "shared": tasks * mb * nb * trips * ks * 2 // mw + tasks * mb * nb * trips * ks * 2 // nw,
            },
            # Gathered operands are loaded element by element; those that do not lie along the reduction are read from
            # shared memory so.
            efficiency=area * (70 - 20 * gathered - 10 * turned) // (area + 512),
            unit=f"{half}.tensor",
            serial=trips * 6 + 20,
        ),
        operands=operands_of(detail.spec, axes, packed=packed_slots(detail)),
        tiles={"register": {"m": mw, "n": nw, "k": const(SIDE)}, "shared": {"m": mb, "n": nb, "k": ks}},
        packings=Packings(kernel, detail),
        detail=detail,
    )


@attrs.frozen
class Packings:
    """Constant operands that memory does not hold in whole chunks, stored as [tile][k][point of the tile]."""

    kernel: KernelSpec
    detail: TensorDetail

    def __call__(self, params: Mapping[str, int]) -> tuple[Packing, ...]:
        roles = self.detail.roles
        sides = ((self.detail.rows, roles.m, "m.block"), (self.detail.columns, roles.n, "n.block"))
        return tuple(
            pack_operand(self.kernel, operand.slot, outer, roles.k, params[block], params["k.step"])
            for operand, outer, block in sides
            if packs(operand)
        )


def _sizes(limit: int) -> tuple[int, ...]:
    """Block sizes up to 256, not much beyond the extent."""
    return tuple(x for x in powers(32, 256) if x < 2 * max(limit, 32))


RECIPE = on_rocm(NAME, match, 30)
