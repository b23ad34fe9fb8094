"""`topk`: one thread per element counts how many of its row come before it. For every length and count."""

from __future__ import annotations

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.expr import const
from tilewright.ir.ops import Routine
from tilewright.recipes import Match, Usage, Work
from tilewright_backends.recipes.gpu.common import block_limits, ceil_div, on_gpus, parameter
from tilewright_backends.recipes.selection import memory_bytes, row_operands, topk_of

NAME = "topk"


def match(routine: Routine, device: DeviceModel) -> Match | None:
    """The routine as a selection: how many elements a block takes."""
    found = topk_of(routine)
    if found is None:
        return None
    threads = parameter("threads", (32, 64, 128, 256, 512), align=device.warp, role="rows", level="block")
    elements = found.rows * found.length
    tasks = ceil_div(elements, threads.var)
    registers = const(32)
    size = dtypes.size_of(routine.inputs[0].dtype)
    return Match(
        recipe=f"{device.kind}.{NAME}",
        roles={"rows": (), "length": (), "count": ()},
        extents={"rows": found.rows, "length": found.length, "count": found.count},
        parameters=(threads,),
        constraints=block_limits(threads.var, registers, const(0), device),
        usage=Usage(tasks, threads.var, registers),
        work=Work(
            flops=tasks * threads.var * (found.length * 10 + 20),
            traffic={"dram": const(memory_bytes(routine)), "l2": tasks * (found.length * size)},
            efficiency=const(40),
            serial=const(found.length // 8),
        ),
        operands=row_operands(routine, found),
        # A row is read once by each of the blocks that its elements are spread over.
        tiles={
            "block": {
                "rows": ceil_div(threads.var, max(found.length, 1)),
                "length": const(found.length),
                "count": const(found.count),
            }
        },
        detail=found,
    )


CUDA, ROCM = on_gpus(NAME, match, 0, takes=Routine)
