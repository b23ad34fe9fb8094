"""`cuda.wgmma`: contractions of float16 or bfloat16 operands by `wgmma`, summed in float32 (sm_90a)."""

from __future__ import annotations

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.expr import const, maximum
from tilewright.recipes import Constraint, Match, Recipe, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.recipes.gpu.common import (
    block_limits,
    ceil_div,
    divides,
    parameter,
    points,
    powers,
)
from tilewright_backends.recipes.gpu.tensor import axes_of, detail_of, packed_slots
from tilewright_backends.recipes.gpu.tensor_product import Packings
from tilewright_backends.recipes.operands import memory_bytes, operands_of

NAME = "cuda.wgmma"
STEP = 64


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as this recipe sees it, or None when it is not of its kind."""
    if not device.has("wgmma"):
        return None
    detail = detail_of(kernel)
    if detail is None:
        return None
    roles = detail.roles
    m, n, k, batch = (points(x) for x in (roles.m, roles.n, roles.k, roles.batch))
    if min(m, n) < 32:
        return None
    parameters = (
        parameter("m.block", [x for x in powers(64, 256) if x < 2 * max(m, 64)], align=64, role="m", level="shared"),
        parameter("n.block", [x for x in powers(64, 256) if x < 2 * max(n, 64)], align=64, role="n", level="shared"),
        parameter("m.group", (64, 128), align=64, role="m", level="register"),
        parameter("stages", (3, 4, 5)),
    )
    mb, nb, group, stages = (p.var for p in parameters)
    threads = maximum(mb // group, 1) * 128
    shared = (mb + nb) * STEP * 2 * stages + 2048
    gathered = [x for x in (detail.rows, detail.columns) if not (x.chunked or x.constant)]
    ahead = ceil_div((mb + nb) * STEP, threads * 2) * len(gathered)
    registers = group * nb // 128 + ahead + 56
    tasks = ceil_div(m, mb) * ceil_div(n, nb) * batch
    trips = ceil_div(k, STEP)
    out = sum(points(detail.spec.spatial) * dtypes.size_of(s.value.dtype) for s in detail.spec.stores)
    half = "fp16" if detail.rows.dtype == "float16" else "bf16"
    axes = axes_of(detail)
    return Match(
        recipe=NAME,
        roles=axes,
        extents={"m": m, "n": n, "k": k, "batch": batch},
        parameters=parameters,
        constraints=(
            divides(group, mb, "warpgroups share the rows of a block evenly"),
            Constraint(nb, const(256), "columns of one instruction"),
            Constraint(group, const(128), "rows of a warpgroup"),
            Constraint(const(3), stages, "the ring needs three stages"),
            Constraint(ahead, const(64), "registers that a thread loads ahead"),
            *block_limits(threads, registers, shared, device),
        ),
        usage=Usage(tasks, threads, registers, shared, const(1)),
        work=Work(
            flops=tasks * mb * nb * trips * STEP * 2,
            traffic={"dram": const(memory_bytes(detail.spec)), "l2": tasks * (mb + nb) * trips * STEP * 2 + out},
            # Small tiles are limited by the loads that feed them.
            efficiency=mb * nb * (70 - 25 * len(gathered)) // (mb * nb + 4096),
            unit=f"{half}.tensor",
            serial=trips * 12 // stages + 30,
        ),
        operands=operands_of(detail.spec, axes, packed=packed_slots(detail)),
        tiles={"register": {"m": group, "n": nb, "k": const(16)}, "shared": {"m": mb, "n": nb, "k": const(STEP)}},
        packings=Packings(kernel, detail, STEP),
        detail=detail,
    )


RECIPE = Recipe(NAME, "cuda", match, priority=40)
