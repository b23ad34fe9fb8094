"""Programs that somebody else wrote, such as compilers: run to the end, or ended with all that they started."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tilewright.errors import InternalError

_log = logging.getLogger(__name__)

TIME_LIMIT = 600.0
"""Seconds that a tool may take, unless a call says otherwise."""


def run_tool(
    command: Sequence[str], *, time_limit: float = TIME_LIMIT, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process group of its own and gives its exit status and what it printed.

    However the call ends early, by the time limit or by an interrupt, the whole group is ended with it, and what it
    left in its folder for temporary files is removed. A worker's tools stay in the worker's session, by which
    `Worker.close` finds them.

    Raises:
        InternalError: it took longer than `time_limit` seconds.
    """
    _log.debug("running %s", " ".join(command))
    # A thread starts it: an interrupt meets the main thread only, and one amid starting would leave a process that
    # nobody knows of.
    with TemporaryDirectory(prefix="tilewright-") as temporary, ThreadPoolExecutor(1) as starter:
        starting = starter.submit(_start, command, cwd, temporary)
        try:
            running = starting.result()
            out, err = running.communicate(timeout=time_limit)
        except subprocess.TimeoutExpired:
            _end(running)
            raise InternalError(
                f"{command[0]} took longer than {time_limit:g} s and was ended.", "Try a smaller model."
            ) from None
        except BaseException:
            if starting.exception() is None:
                _end(starting.result())
            raise
    return subprocess.CompletedProcess(command, running.returncode, out, err)


def _start(command: Sequence[str], cwd: Path | None, temporary: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=cwd,
        env={**os.environ, "TMPDIR": temporary},
        process_group=0,
    )


def _end(running: subprocess.Popen[str]) -> None:
    with running, suppress(ProcessLookupError):  # leaving waits, and closes the pipes
        os.killpg(running.pid, signal.SIGKILL)
