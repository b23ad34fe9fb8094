"""The command line: `tilewright COMMAND`. Each command is a module of its own, imported when it is used."""

from __future__ import annotations

import sys

from tilewright.cli.app import cli
from tilewright.cli.base import run

__all__ = ["cli", "main"]


def main() -> None:
    """Entry point of the program `tilewright`."""
    sys.exit(run(cli))
