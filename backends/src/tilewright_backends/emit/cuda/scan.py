"""Recurrences: one thread per point, the states in registers."""

from __future__ import annotations

from contextlib import nullcontext

from tilewright.errors import InternalError
from tilewright.ir.ops import ScanOp
from tilewright.ir.program import Kernel
from tilewright_backends.emit.cuda.body import Body, i32
from tilewright_backends.emit.cuda.points import count, decompose, point_at, size
from tilewright_backends.lower.types import carrier
from tilewright_backends.recipes.cuda.scan import detail_of


def emit(body: Body, kernel: Kernel, op: ScanOp) -> None:
    """The code of one task of a kernel: `threads` neighbouring points."""
    spec = detail_of(op)
    if spec is None:
        raise InternalError(f"cuda.scan does not take kernel {kernel.name}.")
    init, step = spec.body[: len(op.init)], spec.body[len(op.init) :]
    total = count(spec.spatial)
    number = body.hold(body.task * body.threads + body.thread, "number")
    edge = total % body.threads != 0
    with body.when(body.index(number < total)) if edge else nullcontext():
        at = decompose(number, spec.spatial, body)
        cells = [body.registers(carrier(x.dtype), 1, "state") for x in init]
        start = point_at(body, spec, at)
        for cell, expr in zip(cells, init, strict=True):
            body.store(cell, i32(0), start.value(expr))
        with body.loops("t", {x.name: size(x) for x in spec.reduce}) as along:
            point = point_at(body, spec, at | along)
            point.give({f"p{i}": body.bind(cell[i32(0)], "before") for i, cell in enumerate(cells)})
            after = [body.bind(point.value(x), "after") for x in step]
            point.give({f"s{i}": x for i, x in enumerate(after)})
            for store in spec.stores:
                point.store(store)
            for cell, value in zip(cells, after, strict=True):
                body.store(cell, i32(0), value)
