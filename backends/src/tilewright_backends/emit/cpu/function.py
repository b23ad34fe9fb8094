"""The frame of a CPU kernel: `kernel(task, pointers…)` runs one task, with helpers that it calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import tvm
from tvm import tirx
from tvm.ir import GlobalVar, PointerType, PrimType

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


@attrs.frozen
class Emitted:
    """A kernel's function and the ones that it calls, all private, returning TVM's status."""

    function: Prim
    helpers: Mapping[GlobalVar, Prim] = attrs.field(factory=dict)


class CpuFunction:
    """A kernel function under construction. It takes the task's number, the pointers, then the kernel's symbols.

    Attributes:
        code: its statements.
        buffers: flat buffer of each parameter, by the value's name.
        task: the task's number.
    """

    def __init__(self, kernel: Kernel, semantics: Semantics) -> None:
        self._kernel = kernel
        self._helpers: dict[GlobalVar, Prim] = {}
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

    def helper(self) -> CpuFunction:
        """A function under construction with the same parameters; `call` finishes and calls it.

        LLVM hands out the registers of a function to all its loops together, so the constants of one loop can cost
        another its accumulators. What a helper does has registers of its own.
        """
        return CpuFunction(self._kernel, self.semantics)

    def parameter(self, name: str, buffer: Prim) -> Prim:
        """One more parameter, the address of a buffer like `buffer`: the buffer there."""
        pointer = tirx.Var(name, PointerType(PrimType(buffer.dtype)))
        made = tirx.decl_buffer(buffer.shape, buffer.dtype, f"{name}_data", data=pointer, layout=None)
        self._params.append(pointer)
        self.code.emit(tirx.DeclBuffer(made, data=pointer))
        return made

    def number(self, name: str, interval: Interval) -> Expr:
        """One more parameter, a number."""
        self._params.append(tirx.Var(name, "int32"))
        return self.code.define(name, self._params[-1], interval)

    def call(self, name: str, helper: CpuFunction, args: Sequence[Prim]) -> None:
        """Calls a helper with this function's own parameters and those that it was given."""
        variable = GlobalVar(f"{self._kernel.name}_{name}")
        self._helpers[variable] = helper.finish().function
        own = self._params[: len(helper._params) - len(args)]
        self.code.evaluate(tvm.ir.Call(variable, [*own, *args], ret_ty="int32"))

    def finish(self) -> Emitted:
        """The kernel as private functions."""
        function = tirx.PrimFunc(self._params, self.code.finish(), ret_type=PrimType("int32"))
        return Emitted(function.with_attr("tirx.noalias", True), self._helpers)


def tail_mask(first: int, present: int, lanes: int) -> Prim:
    """Lanes `first + lane < present` as a literal; None when all are there."""
    if first + lanes <= present:
        return None
    flags = [tirx.const(first + i < present, "bool") for i in range(lanes)]
    return tirx.Shuffle(flags, [tirx.const(i, "int32") for i in range(lanes)])
