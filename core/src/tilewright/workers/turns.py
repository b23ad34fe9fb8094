"""Turns at a device: of all processes of the machine that measure on it, one does at a time."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tilewright.errors import TilewrightError

_PAUSE = 0.005
"""Seconds between two looks at a lock that is held."""


class BusyError(TilewrightError):
    """Others kept the device for longer than the caller would wait, or nobody can take it."""


@contextmanager
def turn(kind: str, seconds: float) -> Iterator[None]:
    """Holds the lock of a device; the kernel releases it where the holder dies.

    Args:
        kind: of the target, such as `cuda`.
        seconds: how long to wait for others.

    Raises:
        BusyError: it was not free in that time, or its file cannot be opened.
    """
    path = lock_file(kind)
    try:
        lock = _opened(path)
    except OSError as error:
        raise BusyError(
            f"Measuring needs the lock {path}, which cannot be opened: {error.strerror}.",
            "Point TMPDIR at a folder in which all that measure on this machine can create files.",
        ) from error
    try:
        deadline = time.monotonic() + seconds
        while not _taken(lock):
            if time.monotonic() >= deadline:
                raise BusyError(
                    f"Others measured on this device for longer than {seconds:g} s (they hold {path}).",
                    "Compile again when they have ended.",
                )
            time.sleep(_PAUSE)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file too
    finally:
        os.close(lock)


def lock_file(kind: str) -> Path:
    """The file whose lock stands for the device that programs of a kind of target run on.

    A CPU is one device. Of GPUs it is the first that the environment lets a program see, under the name by which it
    does: two processes that name one GPU in two ways do not wait for each other.
    """
    device = "0" if kind == "cpu" else os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or "0"
    return Path(tempfile.gettempdir()) / f"tilewright-{kind}-{re.sub(r'[^A-Za-z0-9-]', '_', device)}.lock"


def _opened(path: Path) -> int:
    """A descriptor of the file, which is made where it is missing, and never written to nor removed.

    It is opened to read and created by itself, because a file of another user in a folder for all allows no more.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with suppress(FileExistsError):
        if not path.exists():
            os.close(os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644))
    return os.open(path, flags)


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
