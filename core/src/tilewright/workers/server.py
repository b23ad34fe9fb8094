"""The side that works: `python -m tilewright.workers.server REQUESTS REPLIES`, started by `Worker` alone."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, TextIO

from tilewright.errors import TilewrightError
from tilewright.memory import peak_bytes

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answers requests until the other side closes the pipe."""
    requests = os.fdopen(int(sys.argv[1]), "r", encoding="utf-8")
    replies = os.fdopen(int(sys.argv[2]), "w", encoding="utf-8")
    start = json.loads(requests.readline())
    _die_with(start["parent"])
    if start["memory_limit"] is not None:
        # The data limit, not the address space: a GPU driver reserves far more addresses than it uses.
        resource.setrlimit(resource.RLIMIT_DATA, (start["memory_limit"], start["memory_limit"]))
    sys.path[:] = start["path"]
    handler: Callable[[Any], Any] | None = None

    def begin() -> None:
        nonlocal handler
        handler = _open(start["task"], start["argument"])

    _send(replies, begin)
    for line in requests:
        if handler is None:
            return
        _send(replies, partial(handler, json.loads(line)))


def _die_with(parent: int) -> None:
    """Asks the kernel to end this process when the one that started it is gone, however it ended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(3)


def _open(task: str, argument: Any) -> Callable[[Any], Any]:
    module, _, name = task.partition(":")
    handler: Callable[[Any], Any] = getattr(import_module(module), name)(argument)
    return handler


def _send(replies: TextIO, work: Callable[[], Any]) -> None:
    """Sends what `work` returns or raises."""
    try:
        text = json.dumps({"value": work(), "peak": peak_bytes()})
    except Exception as error:  # noqa: BLE001 - whatever it is, the asking side raises it
        traceback.print_exc()
        text = json.dumps(_described(error))
    replies.write(text + "\n")
    replies.flush()


def _described(error: Exception) -> dict[str, Any]:
    if isinstance(error, TilewrightError):
        return {"error": error.message, "remedy": error.remedy, "exit_code": error.exit_code}
    message = "out of memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"
    return {"error": message, "remedy": "", "exit_code": 3}


if __name__ == "__main__":
    main()
