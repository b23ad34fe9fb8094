"""Tokens of the textual IR, and the error that says where reading it failed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Literal, TypeVar, cast

import attrs

from tilewright.errors import InputError
from tilewright.ir.text.names import RESERVED

T = TypeVar("T")
Kind = Literal["name", "string", "number", "symbol", "newline", "end"]


class ParseError(InputError):
    """The text is not well-formed IR. `line` and `column` count from 1."""

    def __init__(self, line: int, column: int, expected: str, found: str) -> None:
        super().__init__(f"Line {line}, column {column}: expected {expected}, found {found}.")
        self.line = line
        self.column = column
        self.expected = expected
        self.found = found


@attrs.frozen
class Token:
    """A word, literal or sign and where it stands."""

    kind: Kind
    text: str  # of a string: its value
    line: int
    column: int

    def __str__(self) -> str:
        if self.kind in ("newline", "end"):
            return "the end of the line" if self.kind == "newline" else "the end of the text"
        return json.dumps(self.text) if self.kind == "string" else f"{self.text!r}"


_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
      | (?P<newline>\n)
      | (?P<number>\d+(\.\d+)?([eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*)
      | (?P<string>"(\\.|[^"\\\n])*")
      | (?P<symbol>->|<=|>=|==|!=|<<|>>|//|[-+*/%&|^~<>=()\[\]{},:$])
    """,
    re.VERBOSE,
)


def tokenize(text: str) -> list[Token]:
    """The tokens of `text`; newlines inside parentheses and brackets, and blank lines, are left out.

    Raises:
        ParseError: a character or an escape that the language does not have.
    """
    tokens: list[Token] = []
    depth, line, start, position = 0, 1, 0, 0
    while position < len(text):
        column = position - start + 1
        match = _TOKEN.match(text, position)
        if match is None:
            raise ParseError(line, column, "a token", repr(text[position]))
        kind, found = cast(Kind, match.lastgroup), match.group()
        position = match.end()
        if kind == "newline":
            if depth == 0 and tokens and tokens[-1].kind != "newline":
                tokens.append(Token("newline", found, line, column))
            line, start = line + 1, position
        elif kind == "string":
            try:
                tokens.append(Token("string", json.loads(found), line, column))
            except json.JSONDecodeError:
                raise ParseError(line, column, "a string with JSON's escapes", found) from None
        elif match.lastgroup != "space":
            depth += (found in "([") - (found in ")]") if kind == "symbol" else 0
            tokens.append(Token(kind, found, line, column))
    if tokens and tokens[-1].kind != "newline":
        tokens.append(Token("newline", "", line, position - start + 1))
    tokens.append(Token("end", "", line, position - start + 1))
    return tokens


class Stream:
    """Tokens with a position, and the small questions that a recursive-descent parser asks."""

    def __init__(self, text: str) -> None:
        self._tokens = tokenize(text)
        self._next = 0

    @property
    def token(self) -> Token:
        return self._tokens[self._next]

    def advance(self) -> Token:
        token = self.token
        self._next += token.kind != "end"
        return token

    def fail(self, expected: str, token: Token | None = None, found: str = "") -> ParseError:
        at = token or self.token
        return ParseError(at.line, at.column, expected, found or str(at))

    def at(self, *texts: str) -> bool:
        """Whether the next token is one of these words or symbols (never a string)."""
        return self.token.kind in ("name", "symbol") and self.token.text in texts

    def accept(self, text: str) -> bool:
        if self.at(text):
            self.advance()
            return True
        return False

    def expect(self, text: str) -> Token:
        if not self.at(text):
            raise self.fail(repr(text))
        return self.advance()

    def end_line(self) -> None:
        if self.token.kind != "newline":
            raise self.fail("the end of the line")
        self.advance()

    def name(self, what: str) -> str:
        """A plain or quoted name."""
        if self.token.kind not in ("name", "string") or (self.token.kind == "name" and self.token.text in RESERVED):
            raise self.fail(what)
        return self.advance().text

    def items(self, closing: str, item: Callable[[], T]) -> tuple[T, ...]:
        """Items separated by commas up to the closing bracket, which is read too."""
        found: list[T] = []
        while not self.at(closing):
            if found:
                self.expect(",")
            found.append(item())
        self.expect(closing)
        return tuple(found)

    def integer(self, what: str) -> int:
        sign = -1 if self.accept("-") else 1
        if self.token.kind != "number" or not self.token.text.isdigit():
            raise self.fail(what)
        return sign * int(self.advance().text)
