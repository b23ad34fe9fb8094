"""The command line: `tilewright COMMAND`. Each command is a module of its own, imported when it is used."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the program `tilewright`."""
    # From the first statement on Ctrl-C means exit code 130, so nothing of ours is imported above. Where a shell
    # has it ignored, as in the background, it stays ignored.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _interrupted)

    from tilewright.cli.app import cli
    from tilewright.cli.base import run

    try:
        code = run(cli)
        if ours:  # The work is done and the exit code known: an interrupt would only spoil the way out.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:  # In one of the few instructions that `run` does not guard.
        _interrupted(signal.SIGINT, None)
    sys.exit(code)


def _interrupted(number: int, frame: object) -> None:
    # There is nothing to clean up yet: workers and files come after the imports.
    os.write(2, b"interrupted\n")
    os._exit(128 + number)
