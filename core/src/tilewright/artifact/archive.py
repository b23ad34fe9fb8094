"""The container: a zip file of stored members whose bytes begin on 64-byte boundaries and can be mapped in
place.

Any zip tool can list and unpack it. Reading is stricter than zip: a compressed, encrypted, repeated or
strangely named member is refused, and so is one whose place in the file does not fit.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from attrs import frozen

from tilewright.artifact.errors import ArtifactError, damaged

ALIGNMENT = 64
"""Bytes; a cache line, and the widest vector of the machines we build for."""

_LOCAL = struct.Struct("<4s5H3L2H")
_ZIP64_EXTRA = 20
_PADDING = struct.Struct("<HH")
_PADDING_ID = 0xD935  # the id that Android's zipalign uses for the same purpose
_ZIP64_FROM = 0x7FFFFFFF
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_MAX_MEMBERS = 64


@frozen
class Member:
    """Where the bytes of a member lie: `[offset, offset + size)` of the file."""

    offset: int
    size: int


class Sink:
    """Takes the bytes of one member while they are written, and hashes them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Appends `data`; a view is written without being copied."""
        self._hash.update(data)
        self._stream.write(data)
        self.size += memoryview(data).nbytes

    @property
    def sha256(self) -> str:
        """Digest of the bytes written so far, in hexadecimal."""
        return self._hash.hexdigest()


def add_member(archive: zipfile.ZipFile, name: str, size: int, fill: Callable[[Sink], None]) -> str:
    """Writes a stored member of exactly `size` bytes, aligned; `fill` gives them. Returns their SHA-256.

    The header holds no time and no owner, so equal bytes make equal files.
    """
    stream = archive.fp
    assert stream is not None
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.create_system = 3
    info.external_attr = 0o100644 << 16
    info.file_size = size
    large = size >= _ZIP64_FROM
    begin = stream.tell() + _LOCAL.size + len(name.encode()) + (_ZIP64_EXTRA if large else 0) + _PADDING.size
    padding = -begin % ALIGNMENT
    info.extra = _PADDING.pack(_PADDING_ID, padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=large) as member:
        sink = Sink(member)  # type: ignore[arg-type]
        fill(sink)
    if sink.size != size:
        raise ValueError(f"member {name} was announced with {size} bytes and got {sink.size}")
    return sink.sha256


def read_members(path: Path, file: BinaryIO) -> Mapping[str, Member]:
    """The members of the archive in `file`, by name.

    Raises:
        ArtifactError: it is no archive, it is damaged, or a member is of a kind that an artifact may not
            hold.
    """
    end = file.seek(0, 2)
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, struct.error, ValueError, OverflowError, NotImplementedError) as error:
        raise ArtifactError(
            f"{path} is not a Tilewright artifact, or was cut off: {error}.",
            "Give a file that `tilewright compile -o` wrote, or compile the model again.",
        ) from error
    if len(infos) > _MAX_MEMBERS:
        raise damaged(path, f"it has {len(infos)} members, and an artifact has at most {_MAX_MEMBERS}")
    members: dict[str, Member] = {}
    for info in infos:
        _check(path, info, members)
        members[info.filename] = Member(_data_offset(path, file, info), info.file_size)
    last = 0
    for member in sorted(members.values(), key=lambda m: m.offset):
        if member.offset < last or member.offset + member.size > end:
            raise damaged(path, "its members overlap or reach past its end")
        last = member.offset + member.size
    return members


def _check(path: Path, info: zipfile.ZipInfo, seen: Mapping[str, Member]) -> None:
    name = info.filename
    wrong = ""
    if name.startswith("/") or ".." in name.replace("\\", "/").split("/"):
        wrong = "has an absolute path or one with '..'"
    elif not _NAME.fullmatch(name):
        wrong = "has a name that no artifact uses"
    elif name in seen:
        wrong = "is there twice"
    elif info.flag_bits & 0x1:
        wrong = "is encrypted"
    elif info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        wrong = "is compressed"
    if wrong:
        raise ArtifactError(
            f"Artifact {path} is refused: its member {name!r} {wrong}.", "Only load artifacts that you trust."
        )


def _data_offset(path: Path, file: BinaryIO, info: zipfile.ZipInfo) -> int:
    file.seek(info.header_offset)
    raw = file.read(_LOCAL.size)
    if len(raw) != _LOCAL.size:
        raise damaged(path, f"the header of {info.filename} is missing")
    signature, *_, name_length, extra_length = _LOCAL.unpack(raw)
    if signature != b"PK\x03\x04" or file.read(name_length) != info.filename.encode():
        raise damaged(path, f"the header of {info.filename} does not fit the table of contents")
    offset: int = info.header_offset + _LOCAL.size + name_length + extra_length
    if offset % ALIGNMENT:
        raise damaged(path, f"{info.filename} does not begin at a multiple of {ALIGNMENT} bytes")
    return offset
