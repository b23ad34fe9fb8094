"""How many worker threads a program may use."""

from __future__ import annotations

import os

from tilewright.errors import InputError

VARIABLE = "TILEWRIGHT_NUM_THREADS"


def thread_count(asked: int | None = None) -> int:
    """`asked`, or else `TILEWRIGHT_NUM_THREADS`, or else the number of processors this process may run on.

    Raises:
        InputError: the number is not at least 1.
    """
    if asked is None:
        text = os.environ.get(VARIABLE)
        if text is None:
            return len(os.sched_getaffinity(0))
        if not text.isdecimal():
            raise InputError(f"{VARIABLE} must be a whole number of threads, not {text!r}.")
        asked = int(text)
    if asked < 1:
        raise InputError(f"A program needs at least one thread, not {asked}.", "Give --threads 1 or more.")
    return asked
