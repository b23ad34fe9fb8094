"""Reads scalar expressions: a precedence parser to a small syntax tree, then typing of its literals.

An expression is rebuilt as it stands, without folding, so that what was printed comes back node by node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs

from tilewright.ir import dtypes
from tilewright.ir.expr import OPS, Apply, Const, Expr, Load, Var, const
from tilewright.ir.text.exprs import COMPARISON, INFIX, NOT, UNARY
from tilewright.ir.text.lexer import Stream, Token
from tilewright.ir.text.names import default_dtype


@attrs.frozen
class Names:
    """What an expression may refer to: dtypes of variables, of loads, and the lets so far.

    Args:
        variables: a name that is not listed is an error, unless it carries its dtype (`x:int32`).
    """

    variables: Mapping[str, str] = attrs.field(factory=dict)
    loads: Sequence[str] = ()
    lets: Mapping[int, Expr] = attrs.field(factory=dict)


@attrs.frozen
class _Node:
    """Syntax: `op` is an operator of `expr.OPS`, or one of literal, leaf."""

    op: str
    token: Token
    args: tuple[_Node, ...] = ()
    text: str = ""  # of a literal
    dtype: str | None = None  # stated in the text
    leaf: Expr | None = None
    infix: bool = False


_INFIX_TOKENS = {sign: (op, precedence) for op, (sign, precedence) in INFIX.items()}
_INFIX_TOKENS |= {">": ("lt", COMPARISON), ">=": ("le", COMPARISON)}


def parse_expr(text: str, known: str | None = None, names: Names | None = None) -> Expr:
    """The expression that `text` holds.

    Args:
        known: the dtype that literals take where the expression itself does not say one.
        names: what may be referred to; without it every plain name is an int64 variable.

    Raises:
        ParseError: with line, column, what was expected and what was found.
    """
    stream = Stream(text)
    result = read_expr(stream, known, names)
    if stream.token.kind == "newline":
        stream.advance()
    if stream.token.kind != "end":
        raise stream.fail("the end of the expression")
    return result


def read_expr(stream: Stream, known: str | None, names: Names | None, minimum: int = 0) -> Expr:
    """The expression at the stream's position; `minimum` is the loosest precedence that it may have."""
    return _Typing(stream).build(_Syntax(stream, names).expression(minimum), known)


@attrs.frozen
class _Syntax:
    stream: Stream
    names: Names | None

    def expression(self, minimum: int) -> _Node:
        left = self._prefix()
        while self.stream.token.kind in ("name", "symbol") and self.stream.token.text in _INFIX_TOKENS:
            token = self.stream.token
            op, precedence = _INFIX_TOKENS[token.text]
            if precedence < minimum:
                break
            self.stream.advance()
            right = self.expression(precedence + 1)
            args = (right, left) if token.text in (">", ">=") else (left, right)
            left = _Node(op, token, args, infix=True)
            if precedence == COMPARISON and _INFIX_TOKENS.get(self.stream.token.text, ("", 0))[1] == COMPARISON:
                raise self.stream.fail("parentheses around one of two comparisons")
        return left

    def _prefix(self) -> _Node:
        token = self.stream.advance()
        following = self.stream.token
        if token.kind == "number":
            return self._literal(token, token.text)
        if token.kind == "string":
            return self._variable(token)
        match token.text if token.kind in ("name", "symbol") else "":
            case "-" if following.kind == "number" or self.stream.at("inf"):
                return self._literal(token, "-" + self.stream.advance().text)
            case "-" | "~":
                return _Node("neg" if token.text == "-" else "bitnot", token, (self.expression(UNARY),))
            case "not":
                return _Node("not", token, (self.expression(NOT),))
            case "(":
                inner = self.expression(0)
                self.stream.expect(")")
                return inner
            case "%":
                return self._load(token)
            case "$":
                return self._let(token)
            case "inf" | "nan" | "true" | "false":
                return self._literal(token, token.text)
            case name if token.kind == "name":
                return self._call(token) if self.stream.at("(") else self._variable(token, name)
        raise self.stream.fail("an expression", token)

    def _suffix(self) -> str | None:
        if not self.stream.accept(":"):
            return None
        if not self.stream.at(*dtypes.STORED):
            raise self.stream.fail("a dtype")
        return self.stream.advance().text

    def _literal(self, token: Token, text: str) -> _Node:
        return _Node("literal", token, text=text, dtype=self._suffix())

    def _variable(self, token: Token, name: str | None = None) -> _Node:
        name = token.text if name is None else name
        stated = self._suffix()
        if self.names is None:
            dtype: str | None = "int64"
        else:
            dtype = self.names.variables.get(name)
        if stated is None and dtype is None:
            raise self.stream.fail("a variable, an axis or a symbol that is in scope", token)
        return _Node("leaf", token, leaf=Var(name, stated or dtype or "int64"))

    def _load(self, token: Token) -> _Node:
        slot = self.stream.integer("the number of a read")
        stated = self._suffix()
        given = self.names.loads if self.names is not None else ()
        if stated is None and slot >= len(given):
            raise self.stream.fail(f"one of the {len(given)} reads above", token, f"%{slot}")
        return _Node("leaf", token, leaf=Load(slot, stated or given[slot]))

    def _let(self, token: Token) -> _Node:
        number = self.stream.integer("the number of a let")
        found = self.names.lets.get(number) if self.names is not None else None
        if found is None:
            raise self.stream.fail("a let that is defined above", token, f"${number}")
        return _Node("leaf", token, leaf=found)

    def _call(self, token: Token) -> _Node:
        name = token.text
        if name not in OPS and name not in dtypes.STORED:
            raise self.stream.fail("an operator or a dtype before '('", token)
        self.stream.expect("(")
        args: list[_Node] = []
        target: str | None = name if name in dtypes.STORED else None
        while not self.stream.at(")"):
            if args:
                self.stream.expect(",")
            if name == "bitcast" and args:
                if not self.stream.at(*dtypes.STORED):
                    raise self.stream.fail("a dtype")
                target = self.stream.advance().text
                break
            args.append(self.expression(0))
        self.stream.expect(")")
        op = "cast" if name in dtypes.STORED else name
        if len(args) != OPS[op].arity or (op == "cast" and name == "cast") or (op == "bitcast" and not target):
            what = "a dtype's name" if op == "cast" else f"{OPS[op].arity} operands"
            raise self.stream.fail(f"{what} for {name}", token, f"{len(args)} operands")
        return _Node(op, token, tuple(args), dtype=target)


@attrs.frozen
class _Typing:
    """Gives literals their dtypes and checks that operands agree."""

    stream: Stream

    def infer(self, node: _Node) -> str | None:
        """The dtype that the text of `node` shows by itself, or None when it holds only plain literals."""
        if node.leaf is not None:
            return node.leaf.dtype
        if node.op == "literal" or node.op in ("cast", "bitcast"):
            return node.dtype
        if OPS[node.op].result == "bool":
            return "bool"
        operands = node.args[1:] if node.op == "select" else node.args
        return next((x for x in map(self.infer, operands) if x is not None), None)

    def build(self, node: _Node, known: str | None) -> Expr:
        if node.leaf is not None:
            return node.leaf
        if node.op == "literal":
            return self._literal(node, node.dtype or known or default_dtype(node.text))
        if node.dtype is not None:  # cast and bitcast
            return Apply(node.op, (self.build(node.args[0], None),), node.dtype)
        info = OPS[node.op]
        operands = node.args[1:] if node.op == "select" else node.args
        inner = known if info.result == "same" else None
        inner = next((x for x in map(self.infer, operands) if x is not None), inner)
        wanted = ["bool" if node.op == "select" and i == 0 else inner for i in range(len(node.args))]
        op, parts = node.op, node.args
        if op == "sub" and node.infix and parts[1].op == "literal" and parts[1].text.isdigit():
            dtype = parts[1].dtype or inner or "int64"
            if dtype in dtypes.SIGNED:  # a difference with a literal is the sum with its negative
                op, parts = "add", (parts[0], attrs.evolve(parts[1], text="-" + parts[1].text))
        args = tuple(self.build(x, dtype) for x, dtype in zip(parts, wanted, strict=True))
        dtype = self._check(node, args)
        return Apply(op, args, "bool" if info.result == "bool" else dtype)

    def _check(self, node: _Node, args: tuple[Expr, ...]) -> str:
        found = ", ".join(x.dtype for x in args)
        typed = args
        if node.op == "select":
            typed = args[1:]
            if args[0].dtype != "bool":
                raise self.stream.fail("a bool as the condition of select", node.token, args[0].dtype)
        dtype = typed[0].dtype
        if any(x.dtype != dtype for x in typed):
            raise self.stream.fail(f"operands of one dtype for {node.op}", node.token, found)
        kind = "f" if dtypes.is_float(dtype) else "b" if dtype == "bool" else "i"
        if kind not in OPS[node.op].kinds:
            raise self.stream.fail(f"operands on which {node.op} is defined", node.token, found)
        return dtype

    def _literal(self, node: _Node, dtype: str) -> Const:
        form = default_dtype(node.text)
        if (form == "bool") != (dtype == "bool") or (form == "float32" and not dtypes.is_float(dtype)):
            raise self.stream.fail(f"a literal of {dtype}", node.token, node.text)
        if dtype == "bool":
            return const(node.text == "true", dtype)
        if dtypes.is_float(dtype):
            return const(math.nan if node.text == "nan" else float(node.text), dtype)
        value = int(node.text)
        low, high = dtypes.integer_range(dtype)
        if not low <= value <= high:
            raise self.stream.fail(f"a literal within the range of {dtype}", node.token, node.text)
        return const(value, dtype)
