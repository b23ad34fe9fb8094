"""Modules built in Python: functions that may call each other and themselves, branches, loops, tensor operators.

    m = ModuleBuilder()

    @m.function([("int64", ())], [("int64", ())])
    def fibonacci(b, n):
        def recurse():
            return b.op("Add", b.call(fibonacci, b.op("Sub", n, 1)), b.call(fibonacci, b.op("Sub", n, 2)))

        return b.cond(b.op("Less", n, 2), lambda: n, recurse)

    @m.entry([("int64", ())])
    def main(b, n):
        return b.call(fibonacci, n)

    program = tilewright.compile(m.build())

Functions are traced, once each, when the module is built: what they do with tensors is recorded, other Python code
simply runs. A function sees its parameters and constants, and not the tensors of other functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import onnx

from tilewright.errors import InputError
from tilewright.frontend.graph import Importer
from tilewright.frontend.legalize import Table, builtin_table, legalize
from tilewright.frontend.legalize.builder import Body, Builder, Shape, Tensor
from tilewright.frontend.scope import Scope
from tilewright.ir import dtypes
from tilewright.ir.expr import const
from tilewright.ir.module import DEPTH, Constant, Function, Module
from tilewright.ir.ops import Call, Combiner, If, Location, Loop, Region, Value, value
from tilewright.ir.verify import verify_module
from tilewright.rewrites.live import live

Type = tuple[str, Sequence[int]]
"""Element type and shape."""
Operand = Tensor | npt.NDArray[Any] | bool | int | float
"""What operators take: a tensor, or a constant. A Python number has the element type of the first tensor beside it."""
Trace = Callable[..., Any]


@attrs.define(eq=False)
class FunctionHandle:
    """A function of a module under construction, to be called by `FunctionBuilder.call`.

    Args:
        params: types of the parameters.
        results: types of the results; None for the entry, whose results say it.
    """

    name: str
    trace: Trace
    params: tuple[Type, ...]
    results: tuple[Type, ...] | None


class ModuleBuilder:
    """A module under construction.

    Args:
        depth: how many calls may be active at one time; a deeper recursion ends in an InputError when it runs.
        opset: version of ONNX's operators.
        table: the legalisation rules; by default the built-in ones.
    """

    def __init__(self, depth: int = DEPTH, opset: int = 22, table: Table | None = None) -> None:
        if depth < 1:
            raise InputError(f"The depth must be at least 1, found {depth}.")
        self.depth = depth
        self.opset = opset
        self.table = builtin_table() if table is None else table
        self._functions: dict[str, FunctionHandle] = {}
        self._entry: FunctionHandle | None = None

    def function(self, params: Sequence[Type], results: Sequence[Type]) -> Callable[[Trace], FunctionHandle]:
        """Declares the decorated Python function, which takes a `FunctionBuilder` and a tensor per parameter.

        Args:
            params: element type and shape of each parameter.
            results: likewise of each result.
        """

        def declare(trace: Trace) -> FunctionHandle:
            return self._declare(trace, params, tuple(map(_type, results)))

        return declare

    def entry(self, params: Sequence[Type], outputs: Sequence[str] = ()) -> Callable[[Trace], FunctionHandle]:
        """Declares the function that a run starts with. Its parameters' names are those of the inputs.

        Args:
            outputs: names of the results; by default `output0`, `output1`, …
        """

        def declare(trace: Trace) -> FunctionHandle:
            if self._entry is not None:
                raise InputError(f"The module has two entries, {self._entry.name!r} and {trace.__name__!r}.")
            self._entry = self._declare(trace, params, None)
            self._outputs = tuple(outputs)
            return self._entry

        return declare

    def _declare(self, trace: Trace, params: Sequence[Type], results: tuple[Type, ...] | None) -> FunctionHandle:
        name = trace.__name__
        if name in self._functions:
            raise InputError(f"The module has two functions called {name!r}.", "Give each a name of its own.")
        wanted = len(inspect.signature(trace).parameters) - 1
        if wanted != len(params):
            raise InputError(f"Function {name!r} takes a builder and {wanted} tensors; {len(params)} types are given.")
        self._functions[name] = FunctionHandle(name, trace, tuple(map(_type, params)), results)
        return self._functions[name]

    def build(self) -> Module:
        """Traces the functions that the entry needs and returns the legalised module.

        Raises:
            InputError: a function does not fit its declaration, or an operator its operands.
            UnsupportedError: an operator has no meaning in Tilewright.
        """
        if self._entry is None:
            raise InputError("The module has no entry.", "Decorate a function with `ModuleBuilder.entry`.")
        importer = Importer({}, self.table.covers, None)
        todo = {self._entry.name: self._entry}
        functions: dict[str, Function] = {}
        while len(functions) < len(todo):
            handle = list(todo.values())[len(functions)]
            builder = FunctionBuilder(self, handle, importer)
            functions[handle.name] = Function(handle.name, builder.traced())
            todo.update((x.name, x) for x in builder.called)
        main = functions[self._entry.name].body
        names = tuple(inspect.signature(self._entry.trace).parameters)[1:]
        outputs = self._outputs or tuple(f"output{n}" for n in range(len(main.results)))
        if len(outputs) != len(main.results):
            raise InputError(f"{len(outputs)} names are given for the {len(main.results)} results of the entry.")
        constants = {name: Constant(data) for name, data in importer.constants.items()}
        module = Module(functions, constants, (), self._entry.name, names, outputs, self.depth)
        verify_module(module)
        return legalize(module, self.table)

    def owns(self, handle: FunctionHandle) -> bool:
        """Whether a function was declared here."""
        return self._functions.get(handle.name) is handle


class FunctionBuilder:
    """Records the operators of one function. Made by `ModuleBuilder.build`."""

    def __init__(self, module: ModuleBuilder, handle: FunctionHandle, importer: Importer) -> None:
        self.called: list[FunctionHandle] = []
        self._module = module
        self._handle = handle
        self._importer = importer
        self._builder = Builder(importer.names, {})
        self._visible: list[set[str]] = [set()]
        self._adopt([])

    def traced(self) -> Region:
        """The function's region."""
        names = tuple(inspect.signature(self._handle.trace).parameters)[1:]
        params = [self._fresh(name, *kind) for name, kind in zip(names, self._handle.params, strict=True)]
        self._visible[-1].update(x.name for x in params)
        results = self._results(self._handle.trace(self, *map(self._tensor, params)), f"function {self._handle.name!r}")
        wanted = self._handle.results
        if wanted is not None:
            _check(f"Function {self._handle.name!r} returns", [x.value for x in results], wanted)
        return live(Region(tuple(params), tuple(self._importer.ops), tuple(x.value for x in results)))

    # Operators.

    def constant(self, data: Any, dtype: str = "") -> Tensor:
        """A constant. Without `dtype` it has NumPy's, Python numbers float32 or int64."""
        array = np.asarray(data, dtypes.to_numpy(dtype) if dtype else None)
        if not dtype and array.dtype == np.float64 and not isinstance(data, np.ndarray | np.generic):
            array = array.astype(np.float32)
        return self._tensor(self._importer.constant("constant", array))

    def op(self, op_type: str, *operands: Operand | None, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """An ONNX operator; a tensor, or a tuple of `outputs` tensors.

        Args:
            operands: its inputs in order; None for an optional one that is left out.
            attributes: its attributes, as Python values.

        Raises:
            InputError: it does not fit its operands.
        """
        like = next((x for x in operands if isinstance(x, Tensor)), None)
        given = [None if x is None else self._operand(x, like).value for x in operands]
        names = ["" if x is None else f"input{n}" for n, x in enumerate(given)]
        made = [f"{op_type.lower()}{n or ''}" for n in range(outputs)]
        name = f"{self._handle.name}/{op_type}"
        node = onnx.helper.make_node(op_type, names, made, name=name, domain=domain, **attributes)
        values = {n: x for n, x in zip(names, given, strict=True) if n}
        scope = Scope({"": self._module.opset}, frozenset(made), "", dict(values))
        self._importer.add(node, scope)
        found = tuple(self._tensor(self._importer.find(x, scope, name)) for x in made)
        self._visible[-1].update(x.value.name for x in found)
        return found if outputs > 1 else found[0]

    def compute(self, dtype: str, shape: Shape, body: Body) -> Tensor:
        """`out[i…] = body(i…)`: `b.compute("float32", (n, m), lambda i, j: x[j, i] * 2.0)`."""
        return self._made(self._builder.compute(dtype, shape, body))

    def reduce(self, dtype: str, spatial: Shape, reduce: Shape, how: str | Combiner, body: Body) -> Tensor:
        """`out[i…] = combine over r… of body(i…, r…)`; `how` is `"sum"`, `"max"`, … or a combiner."""
        return self._made(self._builder.reduce(dtype, spatial, reduce, how, body))

    # Control flow.

    def call(self, function: FunctionHandle, *operands: Operand) -> Any:
        """Calls a function of the module, which may be the one under construction; its result, or a tuple of them."""
        what = f"Function {function.name!r}"
        if not self._module.owns(function):
            raise InputError(f"{what} belongs to another module.", "Declare it with the same ModuleBuilder.")
        if function.results is None:
            raise InputError(f"{what} is the entry, which cannot be called.", "Declare a function with the same body.")
        if len(operands) != len(function.params):
            raise InputError(f"{what} takes {len(function.params)} operands, {len(operands)} are given.")
        given = [
            self._operand(x, None if isinstance(x, np.ndarray) else kind[0])
            for x, kind in zip(operands, function.params, strict=True)
        ]
        _check(f"{what} is called with", [x.value for x in given], function.params)
        outputs = [self._fresh(function.name, *kind) for kind in function.results]
        name = outputs[0].name if outputs else self._importer.names.fresh(function.name)
        loc = Location(f"{self._handle.name}/{function.name}", "Call")
        self._importer.ops.append(Call(name, function.name, tuple(x.value for x in given), tuple(outputs), loc))
        self.called.append(function)
        return self._bound(outputs)

    def cond(self, condition: Operand, then: Callable[[], Any], orelse: Callable[[], Any]) -> Any:
        """The results of one of two Python functions, both of which are traced, by a bool scalar."""
        test = self._scalar(condition, "bool", "condition")
        if test.data is not None:
            return then() if bool(test.data) else orelse()
        regions = []
        for what, branch in (("then", then), ("else", orelse)):
            with self._inside() as ops:
                results = self._results(branch(), f"branch {what!r} of function {self._handle.name!r}")
            regions.append(live(Region((), tuple(ops), tuple(x.value for x in results))))
        one, other = ([(x.dtype, x.static_shape()) for x in region.results] for region in regions)
        if one != other:
            raise InputError(
                f"The branches in function {self._handle.name!r} return {_shown(one)} and {_shown(other)}.",
                "Give both the same results.",
            )
        outputs = [self._fresh("branch", *kind) for kind in one]
        if outputs:
            loc = Location(f"{self._handle.name}/cond", "If")
            self._importer.ops.append(If(outputs[0].name, test.value, regions[0], regions[1], tuple(outputs), loc))
        return self._bound(outputs)

    def for_loop(self, count: Operand, body: Callable[..., Any], *states: Operand) -> Any:
        """`count` trips of `states = body(number of the trip, *states)`; the states after the last one."""
        trips = self._scalar(count, "int64", "number of trips")
        known = None if trips.data is None else const(max(int(trips.data), 0))
        start = [self._operand(x, None) for x in states]

        def trip(number: Tensor, going: Tensor, *now: Tensor) -> list[Tensor]:
            return [going, *self._results(body(number, *now), "the body of a loop")]

        return self._loop(start, trip, trips.value if known is None else None, known, None)

    def while_loop(self, condition: Callable[..., Any], body: Callable[..., Any], *states: Operand) -> Any:
        """Trips of `states = body(*states)` while `condition(*states)` holds; the states at the end."""
        start = [self._operand(x, None) for x in states]
        first = self._scalar(condition(*start), "bool", "condition")

        def trip(number: Tensor, going: Tensor, *now: Tensor) -> list[Tensor]:
            after = self._results(body(*now), "the body of a loop")
            return [self._scalar(condition(*after), "bool", "condition"), *after]

        return self._loop(start, trip, None, None, first.value)

    def _loop(
        self, start: Sequence[Tensor], trip: Callable[..., Any], limit: Value | None, count: Any, first: Value | None
    ) -> Any:
        kinds = [(x.dtype, x.shape) for x in start]
        params = [self._fresh("number", "int64", ()), self._fresh("going", "bool", ())]
        params += [self._fresh("state", *kind) for kind in kinds]
        with self._inside(params) as ops:
            results = [x.value for x in trip(*map(self._tensor, params))]
        _check(f"A loop in function {self._handle.name!r} returns", results[1:], kinds)
        outputs = [self._fresh("loop", *kind) for kind in kinds]
        if outputs:
            region = live(Region(tuple(params), tuple(ops), tuple(results)))
            carried = tuple(x.value for x in start)
            loc = Location(f"{self._handle.name}/loop", "Loop")
            self._importer.ops.append(
                Loop(outputs[0].name, limit, first, carried, tuple(outputs), region, count, loc)
            )
        return self._bound(outputs)

    # What is recorded where.

    def _adopt(self, ops: list[Any]) -> list[Any]:
        """Makes a list the one that both builders append to; returns the last one."""
        before = self._importer.ops
        self._importer.ops = self._builder.ops = ops
        return before

    @contextmanager
    def _inside(self, params: Sequence[Value] = ()) -> Iterator[list[Any]]:
        """A region; yields its operators."""
        ops: list[Any] = []
        outside = self._adopt(ops)
        self._visible.append({x.name for x in params})
        try:
            yield ops
        finally:
            self._visible.pop()
            self._adopt(outside)

    def _fresh(self, hint: str, dtype: str, shape: Sequence[int]) -> Value:
        return value(self._importer.names.fresh(hint), dtype, list(shape))

    def _tensor(self, of: Value) -> Tensor:
        return Tensor(self._builder, of, self._importer.data(of))

    def _made(self, tensor: Tensor) -> Tensor:
        self._visible[-1].add(tensor.value.name)
        return tensor

    def _bound(self, outputs: Sequence[Value]) -> Any:
        """What Python gets for results: one tensor, or a tuple."""
        self._visible[-1].update(x.name for x in outputs)
        found = tuple(map(self._tensor, outputs))
        return found[0] if len(found) == 1 else found

    def _operand(self, given: Any, like: Tensor | str | None) -> Tensor:
        if isinstance(given, Tensor):
            known = given.value.name in self._importer.constants
            if not known and not any(given.value.name in names for names in self._visible):
                raise InputError(
                    f"Function {self._handle.name!r} uses {given.value.name!r}, a tensor of another function or of a "
                    "branch or loop that has ended.",
                    "Pass it as an operand, or return it.",
                )
            return self._tensor(given.value)
        if isinstance(given, np.ndarray | np.generic) or like is None:
            return self.constant(given)
        return self.constant(given, like if isinstance(like, str) else like.dtype)

    def _scalar(self, given: Any, dtype: str, what: str) -> Tensor:
        found = self._operand(given, dtype)
        if (found.dtype, found.rank) != (dtype, 0):
            raise InputError(
                f"The {what} in function {self._handle.name!r} must be a scalar of {dtype}; "
                f"found {found.dtype} {list(found.shape)}."
            )
        return found

    def _results(self, given: Any, what: str) -> list[Tensor]:
        """What Python returned, as tensors."""
        if given is None:
            raise InputError(f"{what[0].upper()}{what[1:]} returns nothing.", "Return a tensor or a tuple of tensors.")
        return [self._operand(x, None) for x in (given if isinstance(given, tuple | list) else (given,))]


def _type(given: Type) -> Type:
    dtype, shape = given
    if dtype not in dtypes.STORED:
        raise InputError(f"{dtype!r} is no element type.", f"Element types: {', '.join(sorted(dtypes.STORED))}.")
    return dtype, tuple(int(x) for x in shape)


def _check(what: str, given: Sequence[Value], wanted: Sequence[Type]) -> None:
    found = [(x.dtype, x.static_shape()) for x in given]
    if found != [(dtype, tuple(shape)) for dtype, shape in wanted]:
        raise InputError(f"{what} {_shown(found)}; it is declared with {_shown(wanted)}.")


def _shown(types: Sequence[Type]) -> str:
    return ", ".join(f"{dtype} {list(shape)}" for dtype, shape in types) or "nothing"
