"""`cpu.topk`: the extreme elements of each row, kept in a heap inside the results and sorted at the end."""

from __future__ import annotations

import math

from tilewright.device import DeviceModel
from tilewright.ir.expr import const
from tilewright.ir.ops import Routine
from tilewright.recipes import Match, Parameter, Recipe, Usage, Work
from tilewright_backends.recipes.cpu.common import ceil_div, sizes
from tilewright_backends.recipes.selection import memory_bytes, row_operands, topk_of

NAME = "cpu.topk"


def match(routine: Routine, device: DeviceModel) -> Match | None:
    """The routine as a selection: how many rows a task takes."""
    found = topk_of(routine)
    if found is None:
        return None
    block = Parameter("rows.block", sizes(found.rows), role="rows", level="block")
    tasks = ceil_div(found.rows, block.var)
    depth = max(found.count.bit_length(), 1)
    # Of elements in random order, number i is among the `count` best so far with probability count / i.
    entering = found.count * (1 + math.log(max(found.length / max(found.count, 1), 1)))
    compared = found.length + (entering + found.count) * 2 * depth
    return Match(
        recipe=NAME,
        roles={"rows": (), "length": (), "count": ()},
        extents={"rows": found.rows, "length": found.length, "count": found.count},
        parameters=(block,),
        constraints=(),
        usage=Usage(tasks=tasks),
        work=Work(
            flops=const(round(found.rows * compared * 4)),
            traffic={"dram": const(memory_bytes(routine))},
            efficiency=const(5),
            serial=tasks * 2,
        ),
        operands=row_operands(routine, found),
        tiles={"block": {"rows": block.var, "length": const(found.length), "count": const(found.count)}},
        detail=found,
    )


RECIPE = Recipe(NAME, "cpu", match, priority=0, takes=Routine)
