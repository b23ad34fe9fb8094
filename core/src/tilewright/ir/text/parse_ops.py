"""Reads operators from their text. `OpReader.values` grows by what each operator defines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tilewright.ir import dtypes
from tilewright.ir.expr import const
from tilewright.ir.ops import Call, If, Loop, Op, Region, Routine, Value
from tilewright.ir.text.lexer import Stream
from tilewright.ir.text.parse_exprs import Names, read_expr
from tilewright.ir.text.parse_tensors import TensorReader


class OpReader:
    """Operators of one region.

    Args:
        values: what is defined so far, by name; every operator adds its outputs.
        symbols: names that extents may use.
        region: reads a nested region, given the values that it may capture.
    """

    def __init__(
        self,
        stream: Stream,
        values: dict[str, Value],
        symbols: Sequence[str],
        region: Callable[[Mapping[str, Value]], Region] | None = None,
    ) -> None:
        self.stream = stream
        self.values = values
        self.symbols = dict.fromkeys(symbols, "int64")
        self._region = region

    def op(self) -> Op:
        """The operator on this line and, if it has a body, the lines after it."""
        s = self.stream
        tensors = TensorReader(s, self.symbols, self.value, self.declaration)
        kinds: dict[str, Callable[[str], Op]] = {
            "tensor": tensors.tensor,
            "scan": tensors.scan,
            "routine": self._routine,
            "call": self._call,
            "loop": self._loop,
            "if": self._if,
        }
        if s.at("onnx"):
            raise s.fail("a legalised operator (ONNX nodes can be printed, not read)")
        if not s.at(*kinds):
            raise s.fail("an operator or 'return'")
        kind = s.advance().text
        op = kinds[kind](s.name(f"the name of the {kind} operator"))
        s.end_line()
        return op

    def declaration(self) -> Value:
        """`NAME: DTYPE[SHAPE]`, a new value."""
        s = self.stream
        at = s.token
        name = s.name("the name of a value")
        if name in self.values:
            raise s.fail("a name that is not yet defined", at)
        s.expect(":")
        if not s.at(*dtypes.STORED):
            raise s.fail("a dtype")
        dtype = s.advance().text
        s.expect("[")
        shape = s.items("]", lambda: read_expr(s, "int64", Names(self.symbols)))
        self.values[name] = Value(name, dtype, shape)
        return self.values[name]

    def declarations(self) -> tuple[Value, ...]:
        """`(NAME: TYPE, …)`, new values."""
        self.stream.expect("(")
        return self.stream.items(")", self.declaration)

    def inputs(self) -> tuple[Value, ...]:
        """`(NAME, …)` of values that are defined."""
        self.stream.expect("(")
        return self.stream.items(")", self.value)

    def value(self) -> Value:
        """The value that a name stands for."""
        at = self.stream.token
        name = self.stream.name("the name of a value")
        if name not in self.values:
            raise self.stream.fail("a value that is defined above", at)
        return self.values[name]

    def _results(self) -> tuple[Value, ...]:
        self.stream.expect("->")
        return self.declarations()

    def _routine(self, name: str) -> Routine:
        s = self.stream
        s.expect("=")
        kind = s.name("the kind of the routine")
        inputs = self.inputs()
        attributes: tuple[tuple[str, Any], ...] = ()
        if s.accept("{"):
            attributes = s.items("}", self._attribute)
        parallel = s.integer("a number of dimensions") if s.accept("parallel") else 0
        workspace = read_expr(s, "int64", Names(self.symbols)) if s.accept("workspace") else const(0)
        return Routine(name, kind, inputs, self._results(), attributes, parallel, workspace)

    def _attribute(self) -> tuple[str, Any]:
        name = self.stream.name("the name of an attribute")
        self.stream.expect("=")
        return name, self._attribute_value()

    def _attribute_value(self) -> Any:
        s = self.stream
        words = {"none": None, "true": True, "false": False, "inf": float("inf"), "nan": float("nan")}
        if s.at(*words):
            return words[s.advance().text]
        if s.token.kind == "string":
            return s.advance().text
        if s.accept("["):
            return s.items("]", self._attribute_value)
        sign = -1 if s.accept("-") else 1
        if s.accept("inf"):
            return sign * float("inf")
        if s.token.kind != "number":
            raise s.fail("the value of an attribute")
        text = s.advance().text
        return sign * (int(text) if text.isdigit() else float(text))

    def _call(self, name: str) -> Call:
        self.stream.expect("=")
        function = self.stream.name("the name of a function")
        inputs = self.inputs()
        return Call(name, function, inputs, self._results())

    def _loop(self, name: str) -> Loop:
        s = self.stream
        trip = self.value() if s.accept("trip") else None
        count = read_expr(s, "int64", Names(self.symbols)) if s.accept("count") else None
        condition = self.value() if s.accept("while") else None
        s.expect("carry")
        carried = self.inputs()
        outer = dict(self.values)
        outputs = self._results()
        (body,) = self._bodies(outer, "body")
        return Loop(name, trip, condition, carried, outputs, body, count)

    def _if(self, name: str) -> If:
        self.stream.expect("by")
        condition = self.value()
        outer = dict(self.values)
        outputs = self._results()
        then, orelse = self._bodies(outer, "then", "else")
        return If(name, condition, then, orelse, outputs)

    def _bodies(self, outer: Mapping[str, Value], *heads: str) -> tuple[Region, ...]:
        s = self.stream
        assert self._region is not None
        s.expect("{")
        s.end_line()
        found = []
        for head in heads:
            s.expect(head)
            found.append(self._region(outer))
        s.expect("}")
        return tuple(found)
