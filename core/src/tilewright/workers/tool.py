"""Programs that somebody else wrote, such as compilers: run to the end, or ended with all that they started."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tilewright.errors import InternalError

_log = logging.getLogger(__name__)

TIME_LIMIT = 600.0
"""Seconds that a tool may take, unless a call says otherwise."""


def run_tool(
    command: Sequence[str], *, time_limit: float = TIME_LIMIT, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process group of its own and gives its exit status and what it printed.

    However the call ends early, by the time limit or by an interrupt, the whole group is ended with it. A worker's
    tools stay in the worker's session, by which `Worker.close` finds them.

    Raises:
        InternalError: it took longer than `time_limit` seconds.
    """
    _log.debug("running %s", " ".join(command))
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=cwd,
        process_group=0,
    ) as running:
        try:
            out, err = running.communicate(timeout=time_limit)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            raise InternalError(
                f"{command[0]} took longer than {time_limit:g} s and was ended.", "Try a smaller model."
            ) from None
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, running.returncode, out, err)
