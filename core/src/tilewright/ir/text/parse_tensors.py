"""Reads tensor operators and scans: axes, reads, states, writes and the lets between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from tilewright.ir import dtypes
from tilewright.ir.expr import Const, Expr
from tilewright.ir.ops import Access, Axis, AxisKind, Combiner, ScanOp, TensorOp, Value, Write, combiner
from tilewright.ir.text.lexer import Stream
from tilewright.ir.text.parse_exprs import Names, read_expr

T = TypeVar("T")


class TensorReader:
    """One tensor operator or scan.

    Args:
        symbols: dtypes of the symbols that every expression may use.
        value: reads the name of a defined value.
        declaration: reads the name and type of a new one.
    """

    def __init__(
        self,
        stream: Stream,
        symbols: Mapping[str, str],
        value: Callable[[], Value],
        declaration: Callable[[], Value],
    ) -> None:
        self.stream = stream
        self._value = value
        self._declaration = declaration
        self._symbols = symbols
        self._variables = dict(symbols)
        self._lets: dict[int, Expr] = {}
        self._reads: list[Access] = []

    def tensor(self, name: str) -> TensorOp:
        s = self.stream
        axes = self._axes()
        inplace = s.name("the value that may be overwritten") if s.accept("inplace") else ""
        self._open()
        self._read_lines()
        merge = self._line(self.combiner) if self._next("reduce") else None
        body = []
        while self._next("body"):
            body.append(self._line(self._expr))
        writes = self._write_lines()
        s.expect("}")
        return TensorOp(name, axes, tuple(self._reads), tuple(body), writes, merge, inplace)

    def scan(self, name: str) -> ScanOp:
        s = self.stream
        axes = self._axes()
        s.expect("over")
        scan = self._axis()
        self._open()
        self._read_lines()
        parts: dict[str, list[Expr]] = {"init": [], "step": [], "result": []}
        for what, found in parts.items():
            while self._next(what):
                found.append(self._line(self._expr))
                if what == "init":
                    states = {f"{x}{len(found) - 1}": found[-1].dtype for x in "ps"}
                    self._variables.update(states)
        writes = self._write_lines()
        s.expect("}")
        init, step, results = (tuple(x) for x in parts.values())
        return ScanOp(name, axes, scan, tuple(self._reads), init, step, results, writes)

    def combiner(self) -> Combiner:
        """`sum float32`, or `combiner NAME (identities) -> (combined states)` with its traits."""
        s = self.stream
        at = s.token
        if not s.accept("combiner"):
            name = s.advance().text
            if name not in ("sum", "prod", "max", "min", "and", "or"):
                raise s.fail("a standard combiner or 'combiner'", at)
            dtype = s.token
            if not s.at(*dtypes.STORED):
                raise s.fail("a dtype")
            s.advance()
            try:
                return combiner(name, dtype.text)  # type: ignore[arg-type]
            except TypeError as error:
                raise s.fail(f"a dtype that {name} is defined on", dtype, str(error)) from None
        name = s.name("the name of the combiner")
        s.expect("(")
        identity = s.items(")", self._literal)
        variables = {f"{side}{i}": x.dtype for i, x in enumerate(identity) for side in "ab"}
        states: list[Expr] = []

        def state() -> None:
            known = identity[len(states)].dtype if len(states) < len(identity) else None
            states.append(read_expr(s, known, Names(variables)))

        s.expect("->")
        s.expect("(")
        s.items(")", state)
        return Combiner(name, identity, tuple(states), s.accept("associative"), s.accept("commutative"))

    def _literal(self) -> Const:
        at = self.stream.token
        found = read_expr(self.stream, None, Names())
        if not isinstance(found, Const):
            raise self.stream.fail("a literal", at)
        return found

    def _axes(self) -> tuple[Axis, ...]:
        self.stream.expect("for")
        self.stream.expect("(")
        return self.stream.items(")", self._axis)

    def _axis(self) -> Axis:
        s = self.stream
        kind: AxisKind = "reduce" if s.accept("reduce") else "spatial"
        name = s.name("the name of an axis")
        s.expect("<")
        extent = read_expr(s, "int64", Names(self._symbols))
        self._variables[name] = "int64"
        return Axis(name, extent, kind)

    def _open(self) -> None:
        self.stream.expect("{")
        self.stream.end_line()

    def _next(self, word: str) -> bool:
        """Whether the next line, after any lets, begins with `word` (which is then read)."""
        s = self.stream
        while s.accept("$"):
            at = s.token
            if s.integer("the number of a let") != len(self._lets):
                raise s.fail(f"let {len(self._lets)}", at)
            s.expect("=")
            self._lets[len(self._lets)] = self._line(self._expr)
        return s.accept(word)

    def _line(self, read: Callable[[], T]) -> T:
        found = read()
        self.stream.end_line()
        return found

    def _expr(self, known: str | None = None) -> Expr:
        loads = tuple(x.value.dtype for x in self._reads)
        return read_expr(self.stream, known, Names(self._variables, loads, self._lets))

    def _index(self) -> tuple[Expr, ...]:
        self.stream.expect("[")
        return self.stream.items("]", lambda: self._expr("int64"))

    def _read_lines(self) -> None:
        while self._next("%"):
            self._reads.append(self._line(self._access))

    def _access(self) -> Access:
        s = self.stream
        at = s.token
        if s.integer("the number of a read") != len(self._reads):
            raise s.fail(f"read {len(self._reads)}", at)
        s.expect("=")
        value = self._value()
        index = self._index()
        guard = self._expr("bool") if s.accept("if") else None
        fill = None
        if s.accept("else"):
            at = s.token
            found = self._expr(value.dtype)
            if not isinstance(found, Const):
                raise s.fail("a literal as the fill of a guarded read", at)
            fill = found
        return Access(value, index, guard, fill)

    def _write_lines(self) -> tuple[Write, ...]:
        found = []
        while self._next("write"):
            found.append(self._line(self._write))
        return tuple(found)

    def _write(self) -> Write:
        s = self.stream
        value = self._declaration()
        index = self._index()
        guard = self._expr("bool") if s.accept("if") else None
        update = self.combiner() if s.accept("update") else None
        base = self._value() if s.accept("base") else None
        return Write(value, index, guard, update, base, s.accept("ordered"))
