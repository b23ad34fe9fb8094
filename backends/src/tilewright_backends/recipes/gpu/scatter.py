"""`scatter`: every thread owns some elements of the result and walks over the updates that may hit them.

Where updates are whole rows, a thread owns a column of some rows, so it sees each row's place once. Data say which rows
are hit, not which columns.
"""

from __future__ import annotations

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.bounds import linear_terms, simplify
from tilewright.ir.expr import Const, Var, const
from tilewright.ir.ops import Axis
from tilewright.recipes import Match, Operand, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.lower.flat import FlatSpec, FlatStore
from tilewright_backends.recipes.gpu.common import (
    block_limits,
    ceil_div,
    flat_spec,
    on_gpus,
    operations,
    parameter,
    points,
)
from tilewright_backends.recipes.operands import memory_bytes, operands_of

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
    width = min(columns(spec, s)[1] for s in spec.stores)
    seen = updates // width * ceil_div(const(width), owners)
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
            flops=owners * (seen * cost) + elements,
            traffic={"dram": const(memory_bytes(spec)), "l2": owners * (seen * 8) + elements * 8},
            efficiency=const(20),
            serial=ceil_div(elements, owners) // 4 + seen // 2,
        ),
        operands=(*operands_of(attrs.evolve(spec, stores=()), roles), *results),
        tiles={"block": {"x": const(updates), "owned": ceil_div(elements, blocks)}},
        detail=spec,
    )


def columns(spec: FlatSpec, store: FlatStore) -> tuple[tuple[Axis, ...], int]:
    """The axes that an update moves along within its row, innermost last, and the points that they have together.

    The address of an update is a multiple of these points, which data may say, plus the number of the point.
    """
    total = store.value.num_elements()
    elements = int(total.value) if isinstance(total, Const) else 1
    terms = linear_terms(simplify(store.address, spec.bounds()))
    found: tuple[Axis, ...] = ()
    width = 1
    while True:
        steps = [x for x in spec.spatial if x not in found and (width, Var(x.name)) in terms]
        axis = steps[0] if steps else None
        if axis is None or not isinstance(axis.extent, Const):
            return found, width
        whole = width * int(axis.extent.value)
        inside = {Var(x.name) for x in (axis, *found)}
        if elements % whole or any(factor % whole for factor, term in terms if term not in inside):
            return found, width
        found, width = (axis, *found), whole


CUDA, ROCM = on_gpus(NAME, match, 0)
