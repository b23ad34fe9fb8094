"""The cache of compiled programs and of trials: private, locked, bounded, and rebuilt where it is damaged.

It lies in `TILEWRIGHT_CACHE`, or else in the user's cache folder. An entry is one file named by the hash of
everything that its contents depend on, so an entry is never out of date; it is only ever missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import platformdirs
from attrs import frozen

from tilewright.artifact.errors import ArtifactError
from tilewright.errors import InputError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

DEFAULT_LIMIT = 8 << 30
"""Bytes that the entries may have together, unless `TILEWRIGHT_CACHE_LIMIT` gives another number (in MiB)."""

_ENTRY = re.compile(r"[0-9a-f]{64}")


class CacheError(InputError):
    """The cache folder cannot be used, or is not safe to use."""


@frozen
class CacheEntry:
    """One file of the cache: its key, its size in bytes, and when it was last used (seconds since
    the epoch).
    """

    key: str
    path: Path
    size: int
    used: float


def cache_key(parts: Mapping[str, object]) -> str:
    """The key of what is made from `parts`: SHA-256 of their canonical JSON.

    The caller names everything that the result depends on: the model's IR, options, target and device,
    plugins, compiler and toolchain versions.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def cache_folder() -> Path:
    """Where the cache lies; nothing is created."""
    chosen = os.environ.get("TILEWRIGHT_CACHE")
    return Path(chosen).absolute() if chosen else platformdirs.user_cache_path("tilewright")


class Cache:
    """The cache in a folder, which is created with mode 0700 if it is not there.

    Several processes and threads may use it at once.

    Args:
        folder: by default `cache_folder()`.
        limit: bytes that the entries may have together; the longest unused go first.

    Raises:
        CacheError: the folder belongs to somebody else, others can reach into it, or it cannot be created.
    """

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self.folder = cache_folder() if folder is None else folder
        self.limit = _limit() if limit is None else limit
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.folder.stat()
        except OSError as error:
            raise CacheError(f"The cache folder {self.folder} cannot be used: {error.strerror}.", _ELSEWHERE) from error
        if found.st_uid != os.geteuid():
            raise CacheError(
                f"The cache folder {self.folder} belongs to user {found.st_uid}, not to you ({os.geteuid()}); whoever "
                "can write to it could run code as you.",
                _ELSEWHERE,
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise CacheError(
                f"Others can reach into the cache folder {self.folder} (mode {stat.S_IMODE(found.st_mode):04o}); it "
                "needs mode 0700.",
                f"Run chmod 700 {self.folder}, or: {_ELSEWHERE}",
            )

    def fetch(self, key: str, build: Callable[[Path], object], load: Callable[[Path], _T]) -> _T:
        """What `load` makes of the entry `key`, which `build` writes first if it is missing or damaged.

        Two processes that want one key build it once.

        Args:
            key: from `cache_key`.
            build: writes the entry to the path it is given.
            load: reads and checks it; an `ArtifactError` from it says that the entry is damaged.
        """
        with self._locked(_place(key)):
            loaded = self._loaded(key, load)
            if loaded is not None:
                return loaded
            self._write(key, build)
            loaded = load(self.folder / key)
        self._evict(keep=key)
        return loaded

    def find(self, key: str, load: Callable[[Path], _T]) -> _T | None:
        """What `load` makes of the entry `key`, or None where it is missing, or damaged and therefore removed."""
        with self._locked(_place(key)):
            return self._loaded(key, load)

    def put(self, key: str, build: Callable[[Path], object]) -> None:
        """Writes the entry `key` by `build`, which is given the path to write to."""
        with self._locked(_place(key)):
            self._write(key, build)
        self._evict(keep=key)

    def _loaded(self, key: str, load: Callable[[Path], _T]) -> _T | None:
        path = self.folder / key
        if not path.exists():
            return None
        try:
            loaded = load(path)
        except ArtifactError as error:
            _log.warning("A cache entry is built again: %s", error.message)
            path.unlink(missing_ok=True)
            return None
        _log.debug("cache entry %s is used", key[:12])
        os.utime(path)
        return loaded

    def _write(self, key: str, build: Callable[[Path], object]) -> None:
        _log.debug("cache entry %s is made", key[:12])
        partial = self.folder / f".{key}.{os.getpid()}.partial"
        try:
            build(partial)
            partial.replace(self.folder / key)
        finally:
            partial.unlink(missing_ok=True)

    def entries(self) -> list[CacheEntry]:
        """All entries, the one used last first."""
        found = []
        for path in self.folder.iterdir():
            if _ENTRY.fullmatch(path.name):
                try:
                    status = path.stat()
                except FileNotFoundError:  # evicted by another process meanwhile
                    continue
                found.append(CacheEntry(path.name, path, status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> int:
        """Removes every entry, and what interrupted processes left; returns the bytes of the entries."""
        with self._locked(_WHOLE):
            freed = sum(entry.size for entry in self.entries())
            for path in self.folder.iterdir():
                if _ENTRY.fullmatch(path.name) or path.name.endswith(".partial"):
                    path.unlink(missing_ok=True)
        return freed

    def _evict(self, keep: str) -> None:
        with self._locked(_WHOLE):
            total = 0
            for entry in self.entries():
                total += entry.size
                if total > self.limit and entry.key != keep:
                    _log.info("cache entry %s is evicted", entry.key[:12])
                    entry.path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, place: int) -> Iterator[None]:
        """Holds the lock of one byte of the lock file; each key has its own, so a build may fetch other keys.

        The lock belongs to the open file, not to the process, so threads exclude each other too. The file is
        never
        removed: another process may be waiting for it.
        """
        with (self.folder / "lock").open("wb") as file:
            fcntl.fcntl(file, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0))
            yield


_FLOCK = struct.Struct("@hhqqi")  # struct flock: type, whence, start, length, process
_WHOLE = 0


def _place(key: str) -> int:
    return 1 + int(key[:15], 16)


_ELSEWHERE = "Point TILEWRIGHT_CACHE at a folder of your own, or compile with --no-cache."


def _limit() -> int:
    text = os.environ.get("TILEWRIGHT_CACHE_LIMIT")
    if text is None:
        return DEFAULT_LIMIT
    if not text.isdecimal():
        raise CacheError(f"TILEWRIGHT_CACHE_LIMIT must be a number of MiB, not {text!r}.")
    return int(text) << 20
