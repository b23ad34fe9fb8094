"""The frame of a CPU kernel: `kernel(task, pointers…)` runs one task."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import tirx
from tvm.ir import PointerType, PrimType

from tilewright.ir.bounds import Interval, bounds_of
from tilewright.ir.expr import Expr, Var, const
from tilewright.ir.ops import Value
from tilewright.ir.program import Kernel
from tilewright_backends.lower.code import Code, span, symbol_dtype
from tilewright_backends.lower.flat import FlatSpec
from tilewright_backends.lower.lanes import LANE
from tilewright_backends.lower.point import Point
from tilewright_backends.lower.semantics import Semantics
from tilewright_backends.lower.types import Prim, storage


class CpuFunction:
    """A kernel function under construction. It takes the task's number, the pointers, then the kernel's symbols.

    Attributes:
        code: its statements.
        buffers: flat buffer of each parameter, by the value's name.
        task: the task's number.
    """

    def __init__(self, kernel: Kernel, semantics: Semantics) -> None:
        self.code = Code()
        self.semantics = semantics
        self.buffers: dict[str, Prim] = {}
        task = tirx.Var("task", "int32")
        self._params = [task]
        tasks = kernel.choice.resources.tasks
        self.bounds = {x.name: x.interval for x in kernel.symbols}
        self.task: Expr = const(0)
        if tasks > 1:
            self.task = self.code.define("task", task, Interval(0, tasks - 1))
        for number, value in enumerate(kernel.params):
            self._pointer(f"p{number}", value)
        for symbol in kernel.symbols:
            self._params.append(tirx.Var(symbol.name, symbol_dtype(symbol)))
            self.code.enter(symbol, self._params[-1])

    def _pointer(self, name: str, value: Value) -> None:
        dtype = storage(value.dtype)
        pointer = tirx.Var(name, PointerType(PrimType(dtype)))
        elements = bounds_of(value.num_elements(), self.bounds).high
        # Callers' arrays are aligned to their elements only.
        buffer = tirx.decl_buffer((max(elements, 1),), dtype, f"{name}_data", data=pointer, layout=None)
        self._params.append(pointer)
        self.code.emit(tirx.DeclBuffer(buffer, data=pointer))
        self.buffers[value.name] = buffer

    def lane(self, lanes: int) -> Var:
        """The lane variable, bound to the numbers 0 to `lanes - 1`."""
        self.code.env[LANE] = span(0, lanes)
        self.code.bounds[LANE] = Interval(0, lanes - 1)
        return Var(LANE)

    def point(
        self,
        spec: FlatSpec,
        at: Mapping[str, Expr],
        lanes: int = 1,
        mask: Prim = None,
        given: Mapping[str, Prim] | None = None,
        loaded: Mapping[int, Prim] | None = None,
    ) -> Point:
        return Point(
            self.code, spec, self.buffers, at, self.semantics, lanes=lanes, mask=mask, given=given, loaded=loaded
        )

    def finish(self) -> Prim:
        """The kernel as a private function that returns TVM's status."""
        function = tirx.PrimFunc(self._params, self.code.finish(), ret_type=PrimType("int32"))
        return function.with_attr("tirx.noalias", True)


def tail_mask(first: int, present: int, lanes: int) -> Prim:
    """Lanes `first + lane < present` as a literal; None when all are there."""
    if first + lanes <= present:
        return None
    flags = [tirx.const(first + i < present, "bool") for i in range(lanes)]
    return tirx.Shuffle(flags, [tirx.const(i, "int32") for i in range(lanes)])
