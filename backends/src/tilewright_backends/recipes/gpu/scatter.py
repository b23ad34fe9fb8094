"""`scatter`: every thread owns some elements of the result and walks over all updates."""

from __future__ import annotations

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.expr import Const, const
from tilewright.recipes import Match, Operand, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.recipes.gpu.common import (
    block_limits,
    ceil_div,
    flat_spec,
    memory_bytes,
    on_gpus,
    operations,
    parameter,
    points,
)
from tilewright_backends.recipes.operands import operands_of

NAME = "scatter"


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as this recipe sees it, or None when it is not of its kind."""
    spec = flat_spec(kernel)
    if spec is None or not spec.scatters or spec.combiner is not None:
        return None
    elements = 0
    for store in spec.stores:
        total = store.value.num_elements()
        if not isinstance(total, Const):
            return None
        elements += int(total.value)
    parameters = (
        parameter("threads", (128, 256), align=device.warp, role="owned", level="block"),
        parameter("blocks", (1, 4, 16, 64, 256), role="owned"),
    )
    threads, blocks = (p.var for p in parameters)
    updates = points(spec.spatial)
    owners = threads * blocks
    cost = operations(*spec.body, *(s.address for s in spec.stores)) + 4
    roles = {"x": tuple(x.name for x in spec.spatial), "owned": ()}
    results = (
        Operand(s.value.name, dtypes.size_of(s.value.dtype), elements, ("owned",), "owned", 1, elements, True)
        for s in spec.stores
    )
    return Match(
        recipe=f"{device.kind}.{NAME}",
        roles=roles,
        extents={"x": updates, "owned": elements},
        parameters=parameters,
        constraints=block_limits(threads, const(48), const(0), device),
        usage=Usage(blocks, threads, const(48)),
        work=Work(
            flops=owners * (updates * cost) + elements,
            traffic={"dram": const(memory_bytes(spec)), "l2": owners * (updates * 8) + elements * 8},
            efficiency=const(20),
            serial=ceil_div(elements, owners) // 4 + updates // 8,
        ),
        operands=(*operands_of(attrs.evolve(spec, stores=()), roles), *results),
        tiles={"block": {"x": const(updates), "owned": ceil_div(elements, blocks)}},
        detail=spec,
    )


CUDA, ROCM = on_gpus(NAME, match, 0)
