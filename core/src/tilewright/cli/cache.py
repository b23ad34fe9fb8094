"""`tilewright cache`."""

from __future__ import annotations

import time

import click

from tilewright.cache import Cache, cache_folder
from tilewright.cli.base import Command, LazyGroup
from tilewright.cli.output import Output, table
from tilewright.sizes import size_text

_COMMANDS = {
    "path": ("tilewright.cli.cache:path", "Where the cache lies."),
    "list": ("tilewright.cli.cache:list_", "List the entries, the one used last first."),
    "clear": ("tilewright.cli.cache:clear", "Remove every entry."),
}


@click.group("cache", cls=LazyGroup, lazy=_COMMANDS)
def group() -> None:
    """Show or clear the cache of compiled programs."""


@click.command("path", cls=Command)
def path(output: Output) -> None:
    """Show where the cache lies; nothing is created."""
    output.result({"path": str(cache_folder())}, str(cache_folder()))


@click.command("list", cls=Command)
def list_(output: Output) -> None:
    """List the entries, the one used last first."""
    entries = Cache().entries()
    rows = [
        [entry.key[:16], size_text(entry.size), time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))]
        for entry in entries
    ]
    output.result(
        [{"key": entry.key, "bytes": entry.size, "used": entry.used} for entry in entries],
        table(["key", "size", "last used"], rows, right=("size",)),
    )


@click.command("clear", cls=Command)
def clear(output: Output) -> None:
    """Remove every entry."""
    freed = Cache().clear()
    output.result({"freed_bytes": freed}, f"{size_text(freed)} freed")
