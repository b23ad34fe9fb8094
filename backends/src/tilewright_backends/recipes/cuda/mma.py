"""`cuda.mma`: contractions of float16 or bfloat16 operands by `mma.sync`, summed in float32 (sm_80 and later)."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.choice import Packing
from tilewright.ir.expr import const, maximum
from tilewright.recipes import Constraint, Match, Recipe, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.recipes.gpu.common import (
    block_limits,
    ceil_div,
    divides,
    memory_bytes,
    parameter,
    points,
    powers,
)
from tilewright_backends.recipes.gpu.packing import pack_operand
from tilewright_backends.recipes.gpu.tensor import ALIGNMENT, TensorDetail, axes_of, detail_of, packed_slots, packs
from tilewright_backends.recipes.operands import operands_of

NAME = "cuda.mma"


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as this recipe sees it, or None when it is not of its kind."""
    if not device.has("mma.sync"):
        return None
    detail = detail_of(kernel)
    if detail is None:
        return None
    roles = detail.roles
    m, n, k, batch = (points(x) for x in (roles.m, roles.n, roles.k, roles.batch))
    if min(m, n) < 8:
        return None
    parameters = (
        parameter("m.block", _sizes(m, 32), align=16, role="m", level="shared"),
        parameter("n.block", _sizes(n, 32), align=16, role="n", level="shared"),
        parameter("k.step", (32, 64), align=16, role="k", level="shared"),
        parameter("m.warp", (16, 32, 64), align=16, role="m", level="register"),
        parameter("n.warp", (16, 32, 64), align=16, role="n", level="register"),
        parameter("stages", (2, 3, 4)),
    )
    mb, nb, ks, mw, nw, stages = (p.var for p in parameters)
    threads = maximum((mb // mw) * (nb // nw), 1) * device.warp
    shared = (ceil_div(mb * ks * 2 * stages, ALIGNMENT) + ceil_div(nb * ks * 2 * stages, ALIGNMENT)) * ALIGNMENT + 256
    gathered = [x for x in (detail.rows, detail.columns) if not (x.chunked or x.constant)]
    ahead = ceil_div((mb + nb) * ks, threads * 2) * len(gathered)
    registers = mw * nw // device.warp + mw // 4 + nw // 4 + ahead + 48
    tasks = ceil_div(m, mb) * ceil_div(n, nb) * batch
    trips = ceil_div(k, ks)
    out = sum(points(detail.spec.spatial) * dtypes.size_of(s.value.dtype) for s in detail.spec.stores)
    half = "fp16" if detail.rows.dtype == "float16" else "bf16"
    area = mw * nw
    axes = axes_of(detail)
    return Match(
        recipe=NAME,
        roles=axes,
        extents={"m": m, "n": n, "k": k, "batch": batch},
        parameters=parameters,
        constraints=(
            divides(mw, mb, "warps share the rows of a block evenly"),
            divides(nw, nb, "warps share the columns of a block evenly"),
            Constraint(const(2), stages, "the ring needs two stages"),
            Constraint(ahead, const(64), "registers that a thread loads ahead"),
            *block_limits(threads, registers, shared, device),
        ),
        usage=Usage(tasks, threads, registers, shared, const(1)),
        work=Work(
            flops=tasks * mb * nb * trips * ks * 2,
            traffic={
                "dram": const(memory_bytes(detail.spec)),
                "l2": tasks * (mb + nb) * trips * ks * 2 + out,
                "shared": tasks * mb * nb * trips * ks * 2 // mw + tasks * mb * nb * trips * ks * 2 // nw,
            },
            # Gathered operands are loaded element by element.
            efficiency=area * (75 - 30 * len(gathered)) // (area + 512),
            unit=f"{half}.mma",
            serial=trips * 12 // (stages + 1) + 20,
        ),
        operands=operands_of(detail.spec, axes, packed=packed_slots(detail)),
        tiles={"register": {"m": mw, "n": nw, "k": const(16)}, "shared": {"m": mb, "n": nb, "k": ks}},
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


def _sizes(limit: int, low: int) -> tuple[int, ...]:
    """Block sizes up to 256, not much beyond the extent."""
    return tuple(x for x in powers(low, 256) if x < 2 * max(limit, low))


RECIPE = Recipe(NAME, "cuda", match, priority=30)
