"""`cpu.topk`: the extreme elements of each row, kept in a heap inside the results and sorted at the end."""

from __future__ import annotations

import math

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.expr import Const, const
from tilewright.ir.ops import Routine
from tilewright.recipes import Match, Parameter, Recipe, Usage, Work
from tilewright_backends.recipes.cpu.common import ceil_div, sizes

NAME = "cpu.topk"


@attrs.frozen
class TopK:
    """`count` of `length` elements for each of `rows` rows, the largest or the smallest ones."""

    rows: int
    length: int
    count: int
    largest: bool


def topk_of(routine: Routine) -> TopK | None:
    """The routine as a selection, or None when it is another kind or has symbolic extents."""
    if routine.kind != "topk" or not all(isinstance(n, Const) for n in routine.inputs[0].shape):
        return None
    *rows, length = routine.inputs[0].static_shape()
    attributes = dict(routine.attributes)
    return TopK(math.prod(rows), length, int(attributes["count"]), bool(attributes["largest"]))


def match(routine: Routine, device: DeviceModel) -> Match | None:
    """The routine as a selection: how many rows a task takes."""
    found = topk_of(routine)
    if found is None:
        return None
    block = Parameter("rows.block", sizes(found.rows), role="rows")
    tasks = ceil_div(found.rows, block.var)
    depth = max(found.count.bit_length(), 1)
    # Of elements in random order, number i is among the `count` best so far with probability count / i.
    entering = found.count * (1 + math.log(max(found.length / max(found.count, 1), 1)))
    compared = found.length + (entering + found.count) * 2 * depth
    row_bytes = found.length * dtypes.size_of(routine.inputs[0].dtype)
    row_bytes += found.count * sum(dtypes.size_of(x.dtype) for x in routine.outputs)
    return Match(
        recipe=NAME,
        roles={"rows": ()},
        extents={"rows": found.rows},
        parameters=(block,),
        constraints=(),
        usage=Usage(tasks=tasks),
        work=Work(
            flops=const(round(found.rows * compared * 4)),
            traffic={"dram": const(found.rows * row_bytes)},
            efficiency=const(5),
            serial=tasks * 2,
        ),
        detail=found,
    )


RECIPE = Recipe(NAME, "cpu", match, priority=0, takes=Routine)
