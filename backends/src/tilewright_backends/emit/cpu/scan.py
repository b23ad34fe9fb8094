"""Emits `cpu.scan`."""

from __future__ import annotations

from tvm import tirx

from tilewright.errors import InternalError
from tilewright.ir.expr import Expr, const, minimum
from tilewright.ir.ops import ScanOp
from tilewright.ir.program import Kernel
from tilewright_backends.emit.cpu.function import CpuFunction, Emitted
from tilewright_backends.lower.code import span
from tilewright_backends.lower.flat import split_number
from tilewright_backends.lower.semantics import Semantics
from tilewright_backends.lower.types import broadcast, carrier
from tilewright_backends.recipes.cpu.common import extent, extents
from tilewright_backends.recipes.cpu.scan import Scan, scan_of


def emit(kernel: Kernel, op: ScanOp, semantics: Semantics) -> Emitted:
    """The kernel's function."""
    scan = scan_of(op)
    if scan is None:
        raise InternalError(f"cpu.scan does not take kernel {kernel.name}.")
    function = CpuFunction(kernel, semantics)
    choice = kernel.choice
    _Emitter(function, scan, choice["lanes"]).run(choice["outer.block"], choice["inner.block"])
    return function.finish()


class _Emitter:
    def __init__(self, function: CpuFunction, scan: Scan, lanes: int) -> None:
        self.function = function
        self.code = function.code
        self.scan = scan
        self.spec = scan.spec
        self.lanes = lanes

    def run(self, outer_block: int, inner_block: int) -> None:
        """Task number -> block of outer points and block of inner points."""
        scan, code, lanes = self.scan, self.code, self.lanes
        inner_tasks = -(-scan.inner_points // inner_block)
        first = code.simplify((self.function.task // inner_tasks) * outer_block)
        start = code.simplify((self.function.task % inner_tasks) * inner_block)
        outer = code.simplify(minimum(const(scan.outer_points) - first, const(outer_block)))
        inner = code.simplify(minimum(const(scan.inner_points) - start, const(inner_block)))
        with code.loop("q", outer) as q:
            digits = split_number(first + q, extents(self.spec, scan.outer))
            at = dict(zip(scan.outer, (code.simplify(x) for x in digits), strict=True))
            if not scan.inner:
                self._recurrence(at, 1)
                return
            whole = code.simplify(inner // lanes) if lanes > 1 else const(0)
            if lanes > 1:
                with code.loop("v", whole) as v:
                    self._recurrence(at | {scan.inner: start + v * lanes + self.function.lane(lanes)}, lanes)
            with code.loop("e", code.simplify(inner - whole * lanes)) as e:
                self._recurrence(at | {scan.inner: start + whole * lanes + e}, 1)

    def _recurrence(self, at: dict[str, Expr], lanes: int) -> None:
        """All steps for one point, or for `lanes` neighbours side by side."""
        code, count = self.code, self.scan.states
        init, step = self.spec.body[:count], self.spec.body[count:]
        index = span(0, lanes)
        cells = [code.local("state", carrier(x.dtype), lanes) for x in init]
        start = self.function.point(self.spec, at, lanes)
        for cell, expr in zip(cells, init, strict=True):
            code.emit(tirx.BufferStore(cell, broadcast(start.value(expr), lanes), [index]))
        with code.loops("t", {x.name: extent(self.spec, x.name) for x in self.spec.reduce}) as along:
            point = self.function.point(self.spec, at | along, lanes)
            point.give({f"p{i}": code.bind(tirx.BufferLoad(cell, [index])) for i, cell in enumerate(cells)})
            after = [code.bind(broadcast(point.value(x), lanes)) for x in step]
            point.give({f"s{i}": x for i, x in enumerate(after)})
            for store in self.spec.stores:
                point.store(store)
            for cell, value in zip(cells, after, strict=True):
                code.emit(tirx.BufferStore(cell, value, [index]))
