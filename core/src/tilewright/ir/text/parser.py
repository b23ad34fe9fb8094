"""Reads `Module` from its text: structure, declarations and regions. Operators are in `parse_ops`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import numpy as np

from tilewright.errors import SymbolicError
from tilewright.ir import dtypes
from tilewright.ir.expr import Const
from tilewright.ir.module import DEPTH, Constant, Function, Module, Symbol
from tilewright.ir.ops import Op, Region, Value
from tilewright.ir.text.lexer import Stream
from tilewright.ir.text.parse_exprs import Names, read_expr
from tilewright.ir.text.parse_ops import OpReader


def parse_module(text: str, constants: Mapping[str, Constant] | None = None) -> Module:
    """The module that `text` holds.

    Args:
        text: as `print_module` writes it. ONNX nodes are printed only.
        constants: contents of the constants that the text names by digest, by value name.

    Raises:
        ParseError: with line, column, what was expected and what was found.
    """
    return _ModuleReader(Stream(text), constants or {}).module()


class _ModuleReader:
    def __init__(self, stream: Stream, given: Mapping[str, Constant]) -> None:
        self.stream = stream
        self.given = given
        self.symbols: dict[str, Symbol] = {}
        self.constants: dict[str, Constant] = {}
        self.values: dict[str, Value] = {}

    def module(self) -> Module:
        s = self.stream
        s.expect("module")
        entry = s.name("the name of the entry function")
        s.expect("{")
        s.end_line()
        functions: dict[str, Function] = {}
        names: dict[str, tuple[str, ...]] = {}
        depth = DEPTH
        lengths: dict[str, str] = {}
        while not s.at("}"):
            if s.at("inputs", "outputs"):
                what = s.advance().text
                names[what] = self._names()
            elif s.accept("depth"):
                depth = s.integer("how many calls may be active at one time")
                s.end_line()
            elif s.accept("length"):
                name = self._name()
                s.expect("by")
                lengths[name] = self._name()
                s.end_line()
            elif s.at("symbol"):
                self._symbol()
            elif s.at("const"):
                self._constant()
            elif s.accept("func"):
                at = s.token
                name = s.name("the name of a function")
                if name in functions:
                    raise s.fail("a name that no other function has", at)
                functions[name] = Function(name, self._region(self.values))
            else:
                raise s.fail("'inputs', 'outputs', 'depth', 'length', 'symbol', 'const', 'func' or '}'")
        closing = s.expect("}")
        s.end_line()
        if s.token.kind != "end":
            raise s.fail("the end of the text")
        if entry not in functions:
            raise s.fail(f"a function {entry!r}, which the module names as its entry", closing)
        symbols = tuple(self.symbols.values())
        inputs, outputs = names.get("inputs", ()), names.get("outputs", ())
        return Module(functions, self.constants, symbols, entry, inputs, outputs, depth, lengths)

    def _names(self) -> tuple[str, ...]:
        s = self.stream
        found: list[str] = []
        while not found or s.accept(","):
            found.append(self._name())
        s.end_line()
        return tuple(found)

    def _name(self) -> str:
        if self.stream.token.kind != "string":
            raise self.stream.fail("a name in quotes")
        return self.stream.advance().text

    def _symbol(self) -> None:
        s = self.stream
        s.expect("symbol")
        at = s.token
        name = s.name("the name of a symbol")
        if name in self.symbols:
            raise s.fail("a name that no other symbol has", at)
        s.expect("in")
        s.expect("[")
        lower = s.integer("the lower bound")
        s.expect(",")
        upper = s.integer("the upper bound")
        s.expect("]")
        s.end_line()
        self.symbols[name] = Symbol(name, lower, upper)

    def _constant(self) -> None:
        s = self.stream
        s.expect("const")
        at = s.token
        value = OpReader(s, self.values, tuple(self.symbols)).declaration()
        try:
            shape = value.static_shape()
        except SymbolicError as error:
            raise s.fail("a constant's shape in integers", at, str(error)) from None
        s.expect("=")
        if s.accept("digest"):
            self.constants[value.name] = self._by_digest(value, shape)
        elif s.accept("bytes"):
            self.constants[value.name] = self._by_bytes(value, shape)
        else:
            self.constants[value.name] = self._inline(value, shape)
        self.values[value.name] = value
        s.end_line()

    def _by_digest(self, value: Value, shape: tuple[int, ...]) -> Constant:
        s = self.stream
        if s.token.kind != "string":
            raise s.fail("a digest in quotes")
        at = s.advance()
        found = self.given.get(value.name)
        if found is None:
            raise s.fail(f"the contents of {value.name!r} in `constants`", at, "a digest only")
        if (found.digest, found.dtype, found.data.shape) != (at.text, value.dtype, shape):
            what = f"{found.dtype}{list(found.data.shape)} with digest {found.digest}"
            raise s.fail(f"contents of {value.name!r} that have this digest", at, what)
        return found

    def _by_bytes(self, value: Value, shape: tuple[int, ...]) -> Constant:
        s = self.stream
        if s.token.kind != "string":
            raise s.fail("base64 in quotes")
        at = s.advance()
        dtype = dtypes.to_numpy(value.dtype)
        try:
            data = base64.b64decode(at.text, validate=True)
        except binascii.Error as error:
            raise s.fail("base64 in quotes", at, str(error)) from None
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if len(data) != size:
            raise s.fail(f"{size} bytes", at, f"{len(data)}")
        return Constant(np.frombuffer(data, dtype).reshape(shape))

    def _inline(self, value: Value, shape: tuple[int, ...]) -> Constant:
        s = self.stream
        at = s.expect("[")
        elements: list[bool | int | float] = []
        while not s.at("]"):
            if elements:
                s.expect(",")
            token = s.token
            element = read_expr(s, value.dtype, Names())
            if not isinstance(element, Const):
                raise s.fail(f"a literal of {value.dtype}", token)
            elements.append(element.value)
        s.expect("]")
        if len(elements) != int(np.prod(shape, dtype=np.int64)):
            raise s.fail(f"{int(np.prod(shape, dtype=np.int64))} elements", at, f"{len(elements)}")
        data = np.asarray(elements, np.float64 if dtypes.is_float(value.dtype) else object)
        return Constant(data.astype(dtypes.to_numpy(value.dtype)).reshape(shape))

    def _region(self, outer: Mapping[str, Value]) -> Region:
        s = self.stream
        reader = OpReader(s, dict(outer), tuple(self.symbols), self._region)
        params = reader.declarations()
        s.expect("{")
        s.end_line()
        ops: list[Op] = []
        while not s.at("return"):
            op = reader.op()
            ops.append(op)
        s.expect("return")
        results = reader.inputs()
        s.end_line()
        s.expect("}")
        s.end_line()
        return Region(params, tuple(ops), results)
