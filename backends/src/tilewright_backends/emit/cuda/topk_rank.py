"""TopK by counting: an element's rank is the number of elements that stand before it."""

from __future__ import annotations

from contextlib import nullcontext

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.ops import Routine
from tilewright.ir.program import Kernel
from tilewright_backends.emit.cuda.body import Body, i32
from tilewright_backends.lower.order import before
from tilewright_backends.lower.types import from_storage
from tilewright_backends.recipes.topk import topk_of


def emit(body: Body, kernel: Kernel, routine: Routine) -> None:
    """The code of one task of a kernel: `threads` neighbouring elements."""
    found = topk_of(routine)
    if found is None:
        raise InternalError(f"cuda.topk_rank does not take kernel {kernel.name}.")
    source = body.params[routine.inputs[0].name]
    values, indices = (body.params[x.name] for x in routine.outputs)
    total = found.rows * found.length
    number = body.hold(body.task * body.threads + body.thread, "number")
    with body.when(body.index(number < total)) if total % body.threads else nullcontext():
        row, place = body.hold(number // found.length, "row"), body.hold(number % found.length, "place")
        mine = (body.bind(from_storage(source[body.index(number)], found.dtype), "mine"), body.index(place, "int32"))
        rank = body.registers("int32", 1, "rank")
        body.store(rank, i32(0), i32(0))
        with body.loop("other", found.length) as other:
            value = from_storage(source[body.index(body.simplify(row * found.length + other))], found.dtype)
            theirs = (body.bind(value, "theirs"), body.index(other, "int32"))
            with body.when(before(theirs, mine, found.dtype, found.largest)):
                body.store(rank, i32(0), tirx.Add(rank[i32(0)], i32(1)))
        with body.when(tirx.LT(rank[i32(0)], i32(found.count))):
            target = tirx.Add(body.index(body.simplify(row * found.count), "int64"), tirx.Cast("int64", rank[i32(0)]))
            body.store(values, target, source[body.index(number)])
            body.store(indices, target, tirx.Cast("int64", mine[1]))
