"""What commands print: results on stdout, everything else on stderr, names from models made harmless."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_WIDE = 10_000  # into a file or pipe nothing is cut off or wrapped


def harmless(text: object) -> str:
    """`text` with control characters and others that a terminal acts on written as escapes.

    Names in a model are arbitrary text. Markup is never interpreted anywhere in the command line, so brackets
    need no escape.
    """
    return "".join(
        repr(c)[1:-1] if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else c for c in str(text)
    )


class Output:
    """Where a command's output goes.

    Args:
        json_mode: results are one JSON document instead of text.
        quiet: no progress.
    """

    def __init__(self, json_mode: bool = False, quiet: bool = False) -> None:
        self.json_mode = json_mode
        self._out = _console(sys.stdout)
        self._err = _console(_apart(sys.stderr))
        self._progress = self._err.is_terminal and not quiet

    def result(self, data: Any, text: RenderableType | None = None) -> None:
        """Prints a result: `data` as JSON, or `text`, whose parts are harmless, where JSON is not asked for."""
        if self.json_mode:
            sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")
        elif isinstance(text, str):
            self._out.print(Text(text), soft_wrap=True)
        elif text is not None:
            self._out.print(text)

    def note(self, text: str) -> None:
        """Prints a remark on stderr."""
        self._err.print(Text(harmless(text)), soft_wrap=True)

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[str], None]]:
        """Shows that something is going on, on a terminal only; gives a function that changes the text."""
        if not self._progress:
            yield lambda text: None
            return
        with self._err.status(Text(harmless(what))) as status:
            yield lambda text: status.update(Text(harmless(text)))


def _apart(stream: Any) -> Any:
    """The process's stderr as a stream of its own, which stays what it is while a library's output is kept apart."""
    real: Any = sys.__stderr__
    if stream is None or stream is not real:
        return stream
    return os.fdopen(os.dup(stream.fileno()), "w", encoding=stream.encoding, errors=stream.errors)


def _console(stream: Any) -> Console:
    terminal = stream.isatty()
    return Console(
        file=stream,
        markup=False,
        highlight=False,
        emoji=False,
        no_color=True if "NO_COLOR" in os.environ else None,
        width=None if terminal else _WIDE,
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> Table:
    """A table of harmless text; the columns named in `right` are aligned to the right."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(harmless(cell)) for cell in row))
    return made


def lines(fields: Mapping[str, object]) -> str:
    """`name: value` lines, the values aligned."""
    shown = {harmless(name): harmless(value) for name, value in fields.items()}
    width = max(map(len, shown), default=0) + 2
    return "\n".join(f"{name + ':':<{width}}{value}" for name, value in shown.items())
