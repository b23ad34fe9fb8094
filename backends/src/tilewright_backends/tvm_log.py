"""What TVM says goes to the logger `tilewright.tvm`, as debug records: nobody who does not ask for it sees it.

TVM's Python side uses `logging`. Its C++ side writes lines to the process's stderr. While TVM generates code, stderr is
therefore a file; afterwards each line of TVM's becomes a record, and anything else goes where it was meant to go. TVM
writes a line in several pieces: what another thread writes in between becomes part of that record.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

_log = logging.getLogger("tilewright.tvm")
_LINE = re.compile(rb"\[\d\d:\d\d:\d\d\] (?P<text>.*)")
_STDERR = 2


class _Forward(logging.Handler):
    """Passes the records of TVM's Python loggers on."""

    def emit(self, record: logging.LogRecord) -> None:
        _log.debug("%s: %s", record.levelname.lower(), record.getMessage())


class _Capture:
    """The file in stderr's place. Threads that generate code at the same time share it; the last to leave reads it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._file: IO[bytes] | None = None
        self._stderr = -1

    def enter(self) -> None:
        with self._lock:
            if not self._users:
                _flush()
                self._stderr = os.dup(_STDERR)
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the last `leave`
                os.dup2(self._file.fileno(), _STDERR)
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            # An interrupt may have come before this user was counted.
            self._users = max(self._users - 1, 0)
            if self._users or self._file is None:
                return
            _flush()
            os.dup2(self._stderr, _STDERR)
            os.close(self._stderr)
            file, self._file = self._file, None
        with file:
            file.seek(0)
            for line in file:
                if found := _LINE.match(line):
                    _log.debug("%s", found["text"].decode(errors="replace"))
                else:
                    os.write(_STDERR, line)


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()


_capture = _Capture()


@contextmanager
def forwarded() -> Iterator[None]:
    """While the block runs, what TVM says becomes records. Also a decorator."""
    logger = logging.getLogger("tvm")
    if not any(isinstance(handler, _Forward) for handler in logger.handlers):
        logger.addHandler(_Forward())
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    try:
        _capture.enter()
        yield
    finally:
        _capture.leave()
