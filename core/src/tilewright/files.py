"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tilewright.errors import InputError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file open for writing that becomes `path` when the block ends, and is removed if the block raises.

    The bytes go to a new file beside `path`, which is then renamed; an interrupt leaves the old file as it
    was.

    Raises:
        InputError: the folder does not exist or cannot be written, or `path` is a folder.
    """
    final = Path(path)
    if final.is_dir():
        raise InputError(f"{final} is a folder.", "Name a file.")
    partial = final.with_name(f".{final.name}.{secrets.token_hex(6)}.partial")
    try:
        file = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(
            f"{final} cannot be written: {error.strerror}.", "Choose another path, or create its folder."
        ) from error
    try:
        with os.fdopen(file, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(final)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
