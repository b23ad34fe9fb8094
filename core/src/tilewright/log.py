"""Logging: the library only ever writes to the logger `tilewright`; the command line decides what is
shown.
"""

from __future__ import annotations

import logging

LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}
"""Verbosity (-q, none, -v, -vv) to level."""


def configure(verbosity: int, handler: logging.Handler) -> None:
    """Shows the records of `tilewright` and its parts on `handler`, from the level that `verbosity` names.

    Called once per process by a command; a program that uses Tilewright as a library configures `logging`
    itself.
    """
    logger = logging.getLogger("tilewright")
    logger.handlers[:] = [handler]
    logger.setLevel(LEVELS[max(-1, min(2, verbosity))])
    logger.propagate = False
