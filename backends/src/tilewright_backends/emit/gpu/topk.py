"""Selections by counting: an element stands where as many others come before it. Nothing is exchanged."""

from __future__ import annotations

from contextlib import nullcontext

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.bounds import Interval
from tilewright.ir.expr import Expr
from tilewright.ir.ops import Routine
from tilewright.ir.program import Kernel
from tilewright_backends.emit.gpu.body import GpuBody, i32
from tilewright_backends.lower.order import Element, beats
from tilewright_backends.lower.types import from_storage
from tilewright_backends.recipes.selection import TopK, topk_of


def emit(body: GpuBody, kernel: Kernel, routine: Routine) -> None:
    """The code of one task of a kernel."""
    found = topk_of(routine)
    if found is None:
        raise InternalError(f"topk does not take kernel {kernel.name}.")
    statements(body, routine, found)


def statements(body: GpuBody, routine: Routine, found: TopK) -> None:
    """Statements of one task: one element for each thread."""
    number = body.hold(body.task * body.threads + body.thread, "element")
    inside = body.below(number, found.rows * found.length)
    with nullcontext() if inside is None else body.when(inside):
        row = body.hold(number // found.length, "row")
        _element(body, routine, found, row, body.hold(number % found.length, "place"))


def _element(body: GpuBody, routine: Routine, found: TopK, row: Expr, place: Expr) -> None:
    (source,), (values, indices) = routine.inputs, routine.outputs
    start = body.hold(row * found.length, "start")

    def read(at: Expr) -> Element:
        raw = body.params[source.name][body.index(start + at)]
        return body.bind(from_storage(raw, source.dtype)), body.index(at, "int32")

    mine = read(place)
    before = body.registers("int32", 1, "before")
    body.store(before, i32(0), i32(0))
    with body.loop("other", found.length) as other:
        ahead = beats(read(other), mine, source.dtype, found.largest)
        body.store(before, i32(0), tirx.Add(before[0], tirx.Select(ahead, i32(1), i32(0))))
    with body.when(tirx.LT(before[0], i32(found.count))):
        rank = body.define("rank", body.bind(before[0], "rank"), Interval(0, found.count - 1))
        target = body.bind(body.index(row * found.count + rank), "target")
        body.store(body.params[values.name], target, body.params[source.name][body.index(start + place)])
        body.store(body.params[indices.name], target, tirx.Cast("int64", body.index(place, "int32")))
