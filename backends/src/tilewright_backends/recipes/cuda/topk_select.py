"""`cuda.topk_select`: TopK by selection: a block per row finds one result after the other.

Since the order is total, the next result is the best of those that stand behind the last one. Best for a few results
of long rows.
"""

from __future__ import annotations

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.expr import const
from tilewright.ir.ops import Routine
from tilewright.recipes import Match, Recipe, Usage, Work
from tilewright_backends.recipes.cuda.common import block_limits, ceil_div, parameter
from tilewright_backends.recipes.topk import topk_of

NAME = "cuda.topk_select"


def match(routine: Routine, device: DeviceModel) -> Match | None:
    """The routine as this recipe sees it, or None when it is another kind or has symbolic extents."""
    found = topk_of(routine)
    if found is None:
        return None
    threads = parameter("threads", (64, 128, 256, 512, 1024), align=device.warp, role="x", level="block")
    shared = threads.var * (max(dtypes.size_of(found.dtype), 4) + 4) + 64
    return Match(
        recipe=NAME,
        roles={"rows": ()},
        extents={"rows": found.rows},
        parameters=(threads,),
        constraints=block_limits(threads.var, const(32), shared, device),
        usage=Usage(const(found.rows), threads.var, const(32), shared),
        work=Work(
            flops=const(found.rows * found.count * found.length * 12),
            traffic={"dram": const(found.rows * found.row_bytes)},
            efficiency=const(30),
            # Every result is a pass over the row and a tree of barriers.
            serial=(ceil_div(found.length, threads.var) + 40) * found.count // 4,
        ),
        detail=found,
    )


RECIPE = Recipe(NAME, "cuda", match, priority=0, takes=Routine)
