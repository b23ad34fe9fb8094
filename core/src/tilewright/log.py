"""Logging: the library only ever writes to the logger `tilewright`; the command line decides what is
shown.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}
"""Verbosity (-q, none, -v, -vv) to level."""


@contextmanager
def shown(verbosity: int, handler: logging.Handler) -> Iterator[None]:
    """Shows the records of `tilewright` and its parts on `handler`, from the level that `verbosity` names.

    For the length of one command: afterwards the logger is as it was, so nothing holds on to the command's streams.
    A program that uses Tilewright as a library configures `logging` itself.
    """
    logger = logging.getLogger("tilewright")
    before = (logger.handlers[:], logger.level, logger.propagate)
    logger.handlers[:] = [handler]
    logger.setLevel(LEVELS[max(-1, min(2, verbosity))])
    logger.propagate = False
    try:
        yield
    finally:
        logger.handlers[:], level, logger.propagate = before
        logger.setLevel(level)
