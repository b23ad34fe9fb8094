"""`cuda.topk_rank`: TopK by counting: a thread per element counts those that stand before it.

The work is quadratic in the length of a row, but no thread waits for another: best for short rows and for sorting.
"""

from __future__ import annotations

from tilewright.device import DeviceModel
from tilewright.ir.expr import const
from tilewright.ir.ops import Routine
from tilewright.recipes import Match, Recipe, Usage, Work
from tilewright_backends.recipes.cuda.common import block_limits, ceil_div, parameter
from tilewright_backends.recipes.topk import topk_of

NAME = "cuda.topk_rank"


def match(routine: Routine, device: DeviceModel) -> Match | None:
    """The routine as this recipe sees it, or None when it is another kind or has symbolic extents."""
    found = topk_of(routine)
    if found is None:
        return None
    threads = parameter("threads", (64, 128, 256), align=device.warp, role="x", level="block")
    total = found.rows * found.length
    return Match(
        recipe=NAME,
        roles={"x": ()},
        extents={"x": total},
        parameters=(threads,),
        constraints=block_limits(threads.var, const(32), const(0), device),
        usage=Usage(tasks=ceil_div(total, threads.var), threads=threads.var, registers=const(32)),
        work=Work(
            flops=const(total * found.length * 8),
            traffic={"dram": const(found.rows * found.row_bytes)},
            efficiency=const(30),
            serial=const(found.length // 16),
        ),
        detail=found,
    )


RECIPE = Recipe(NAME, "cuda", match, priority=0, takes=Routine)
