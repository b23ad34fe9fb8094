"""Statements under construction, with the variables in scope.

Index arithmetic stays in the tile IR's expressions until the last moment, where the bounds of all variables are
known: they are simplified there and lowered in 32 bits wherever that is safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from tvm import tirx
from tvm.tirx import ForKind

from tilewright.ir.bounds import Interval, bounds_of, simplify
from tilewright.ir.expr import Apply, Const, Expr, Extent, Var, const, walk
from tilewright.ir.module import Symbol
from tilewright_backends.lower.index import fits_int32, lower_index
from tilewright_backends.lower.types import Prim, convert, element, lanes_of, literal

_CACHE_LINE = 64
_KINDS = {
    "serial": ForKind.SERIAL,
    "parallel": ForKind.PARALLEL,
    "unrolled": ForKind.UNROLLED,
    "vectorized": ForKind.VECTORIZED,
}


class Code:
    """A list of statements that grows, nested by `loop` and `when`.

    Attributes:
        env: TIR value of each of the tile IR's variables in scope.
        bounds: interval of each of them.
    """

    def __init__(self) -> None:
        self.env: dict[str, Prim] = {}
        self.bounds: dict[str, Interval] = {}
        self._frames: list[list[Prim]] = [[]]
        self._names: dict[str, int] = {}

    def unique(self, hint: str) -> str:
        """A name that starts with `hint` and was not given before."""
        count = self._names.get(hint, 0)
        self._names[hint] = count + 1
        return f"{hint}_{count}" if count else hint

    def emit(self, statement: Prim) -> None:
        self._frames[-1].append(statement)

    def evaluate(self, call: Prim) -> None:
        self.emit(tirx.Evaluate(call))

    def bind(self, value: Prim, hint: str = "t") -> Prim:
        """`value`, computed here and once.

        It is kept in a cell on the stack, which LLVM turns into a register: TVM's own variables are analysed on
        definition, which takes exponential time over chains of selects.
        """
        if isinstance(value, (tirx.Var, tirx.IntImm, tirx.FloatImm)):
            return value
        if isinstance(value, tirx.Broadcast) and isinstance(value.value, (tirx.IntImm, tirx.FloatImm)):
            return value
        if element(value) == "bool":
            kept = self.bind(convert(value, "int8"), hint)
            return tirx.NE(kept, literal(0, "int8", lanes_of(kept)))
        lanes = lanes_of(value)
        cell = self.local(hint, element(value), lanes)
        index = span(0, lanes)
        self.emit(tirx.BufferStore(cell, value, [index]))
        return tirx.BufferLoad(cell, [index])

    def loaded(self, buffer: Prim, index: Prim) -> Prim:
        """One element of a buffer."""
        return tirx.BufferLoad(buffer, [index])

    def storing(self, buffer: Prim, index: Prim, value: Prim) -> Prim:
        """The statement that stores one element of a buffer."""
        return tirx.BufferStore(buffer, value, [index])

    def let(self, value: Prim, hint: str) -> Prim:
        """A TIR variable holding an address or another plain number."""
        variable = tirx.Var(self.unique(hint), value.ty)
        self.emit(tirx.Bind(variable, value))
        return variable

    def local(self, hint: str, dtype: str, elements: int) -> Prim:
        """An uninitialised array on the stack, aligned to a cache line."""
        buffer = tirx.decl_buffer(
            (elements,), dtype, self.unique(hint), scope="local", layout=None, data_alignment=_CACHE_LINE
        )
        # Without the annotation TVM would take it from its workspace pool.
        self.emit(tirx.AllocBuffer(buffer, {"disable_lower_builtin": tirx.IntImm("bool", 1)}))
        return buffer

    def define(self, hint: str, value: Prim, interval: Interval) -> Var:
        """A variable of the tile IR that stands for the TIR value."""
        variable = Var(self.unique(hint))
        self.env[variable.name] = value
        self.bounds[variable.name] = interval
        return variable

    def once(self, expr: Expr) -> Expr:
        """`expr`, simplified; computed here and once where it divides by what is known while running only."""
        expr = self.simplify(expr)
        divisors = (x.args[1] for x in walk(expr) if isinstance(x, Apply) and x.op in ("floordiv", "floormod"))
        if all(isinstance(x, Const) for x in divisors):
            return expr
        return self.define("number", self.let(self.index(expr), "number"), bounds_of(expr, self.bounds))

    def enter(self, symbol: Symbol, value: Prim) -> None:
        """Lets a symbol stand for the TIR value; no other variable will be called so."""
        self.unique(symbol.name)
        self.env[symbol.name] = value
        self.bounds[symbol.name] = symbol.interval

    @contextmanager
    def loop(self, hint: str, extent: int | Expr, kind: str = "serial") -> Iterator[Expr]:
        """`for hint in range(extent)`; yields the loop variable (a literal zero when there is one trip)."""
        if isinstance(extent, Const):
            extent = int(extent.value)
        if extent == 1:
            yield const(0)
            return
        high = extent if isinstance(extent, int) else bounds_of(extent, self.bounds).high
        name = self.unique(hint)
        variable = tirx.Var(name, "int32")
        trips = tirx.const(extent, "int32") if isinstance(extent, int) else self.index(extent, "int32")
        self.env[name] = variable
        self.bounds[name] = Interval(0, max(high - 1, 0))
        self._frames.append([])
        yield Var(name)
        self.emit_in_outer(lambda body: tirx.For(variable, tirx.const(0, "int32"), trips, _KINDS[kind], body))

    @contextmanager
    def loops(self, hint: str, extents: Mapping[str, Extent]) -> Iterator[dict[str, Expr]]:
        """Nested serial loops, the first outermost; yields the loop variable of each key."""
        with ExitStack() as stack:
            yield {name: stack.enter_context(self.loop(hint, extent)) for name, extent in extents.items()}

    @contextmanager
    def when(self, condition: Prim) -> Iterator[None]:
        """`if condition:`; nothing is tested when the condition is a literal."""
        if isinstance(condition, tirx.IntImm):
            with self.scope() as frame:
                yield
            if int(condition.value):
                self._frames[-1].extend(frame)
            return
        self._frames.append([])
        yield
        self.emit_in_outer(lambda body: tirx.IfThenElse(condition, body, None))

    @contextmanager
    def scope(self) -> Iterator[list[Prim]]:
        """Collects statements in a list instead of emitting them."""
        frame: list[Prim] = []
        self._frames.append(frame)
        yield frame
        self._frames.pop()

    def emit_in_outer(self, wrap: object) -> None:
        """Closes the innermost frame and emits `wrap(its statements)` in the one around it."""
        assert callable(wrap)
        body = self._frames.pop()
        if body:
            self.emit(wrap(sequence(body)))

    def finish(self) -> Prim:
        """All statements as one."""
        (frame,) = self._frames
        return sequence(frame)

    def simplify(self, expr: Expr) -> Expr:
        return simplify(expr, self.bounds)

    def index(self, expr: Expr, dtype: str = "") -> Prim:
        """An integer or boolean expression without loads, 32 bits wide where every part fits, unless `dtype` says."""
        return lower_index(expr, self.env, self.bounds, {}, dtype)


def symbol_dtype(symbol: Symbol) -> str:
    """The TIR dtype that a symbol's value is passed in."""
    return "int32" if fits_int32(symbol.interval) else "int64"


def sequence(statements: list[Prim]) -> Prim:
    """One statement that runs all of them in order."""
    if len(statements) == 1:
        return statements[0]
    return tirx.SeqStmt(statements) if statements else tirx.Evaluate(tirx.const(0, "int32"))


def span(first: int, lanes: int) -> Prim:
    """The index of `lanes` neighbouring elements of a flat buffer."""
    start = tirx.const(first, "int32")
    return start if lanes == 1 else tirx.Ramp(start, tirx.const(1, "int32"), lanes)
