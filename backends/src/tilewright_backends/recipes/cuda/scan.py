"""`cuda.scan`: recurrences, one thread per point of the spatial domain, serial along their axis."""

from __future__ import annotations

import attrs

from tilewright.device import DeviceModel
from tilewright.ir.expr import const
from tilewright.ir.ops import ScanOp
from tilewright.recipes import Match, Recipe, Usage, Work
from tilewright_backends.lower.flat import FlatSpec, coefficient
from tilewright_backends.recipes.cuda.common import (
    block_limits,
    ceil_div,
    memory_bytes,
    operations,
    parameter,
    points,
)
from tilewright_backends.recipes.scan import scan_spec

NAME = "cuda.scan"


def detail_of(op: ScanOp) -> FlatSpec | None:
    """The operator with an axis last along which the results lie side by side in memory, if there is one."""
    spec = scan_spec(op)
    if spec is None:
        return None
    along = [x for x in spec.spatial if all(coefficient(s.address, x.name) == 1 for s in spec.stores)]
    if not along:
        return spec
    rest = tuple(x for x in spec.spatial if x is not along[-1])
    return attrs.evolve(spec, axes=(*rest, along[-1], *spec.reduce))


def match(op: ScanOp, device: DeviceModel) -> Match | None:
    """The operator as this recipe sees it, or None when it has symbolic extents."""
    spec = detail_of(op)
    if spec is None:
        return None
    threads = parameter("threads", (32, 64, 128, 256), align=device.warp, role="x", level="block")
    total, steps = points(spec.spatial), points(spec.reduce)
    per_step = operations(*spec.body, *(s.expr for s in spec.stores)) + len(spec.reads) + len(spec.stores)
    registers = const(32 + 4 * len(op.init))
    return Match(
        recipe=NAME,
        roles={"x": tuple(x.name for x in spec.spatial)},
        extents={"x": total},
        parameters=(threads,),
        constraints=block_limits(threads.var, registers, const(0), device),
        usage=Usage(tasks=ceil_div(total, threads.var), threads=threads.var, registers=registers),
        work=Work(
            flops=const(total * steps * per_step),
            traffic={"dram": const(memory_bytes(spec))},
            efficiency=const(20),
            serial=const(steps),  # each step waits for the one before
        ),
        detail=spec,
    )


RECIPE = Recipe(NAME, "cuda", match, priority=0, takes=ScanOp)
