"""Writing an artifact, and opening one. Neither runs any of the code that is in it."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from tilewright.artifact import manifest as form
from tilewright.artifact.archive import Member, Sink, add_member, read_members
from tilewright.artifact.errors import ArtifactError, damaged
from tilewright.artifact.manifest import Manifest, Model, Section, Variant, parse_manifest
from tilewright.artifact.weights import map_weights, plan_weights
from tilewright.config.structure import ConfigError, structure
from tilewright.files import replacing
from tilewright.ir import dtypes
from tilewright.runtime.native import Array, Weight

_CHUNK = 4 << 20


def write_artifact(
    path: str | os.PathLike[str],
    manifest: Manifest,
    libraries: Mapping[str, Path],
    weights: Sequence[Weight] = (),
    *,
    decisions: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Writes the one file that a program is; `path` appears only once it is whole.

    Args:
        path: where to.
        manifest: all but `sections`, which is filled in.
        libraries: the shared libraries, by section.
        weights: of all programs; loaded, written and dropped one by one.
        decisions: the planner's records, JSON values, by section.
        extra: further sections by name.

    Returns:
        The manifest as written. Equal arguments make equal bytes.
    """
    sections: dict[str, Section] = {}
    records = {name: json.dumps(list(record), sort_keys=True).encode() for name, record in (decisions or {}).items()}
    texts = {**records, **(extra or {})}
    with replacing(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, size: int, fill: Any) -> None:
            if size > form.limit_of(name):
                raise ArtifactError(f"{name} would have {size} bytes; an artifact holds at most {form.limit_of(name)}.")
            sections[name] = Section(size, add_member(archive, name, size, fill))

        for name, library in libraries.items():
            add(name, library.stat().st_size, lambda sink, library=library: _copy(library, sink))
        for name, data in sorted(texts.items()):
            add(name, len(data), lambda sink, data=data: sink.write(data))
        add(form.WEIGHTS, *plan_weights(weights))
        written = attrs.evolve(manifest, sections=sections)
        text = written.to_json()
        add_member(archive, form.MANIFEST, len(text), lambda sink: sink.write(text))
    return written


def _copy(source: Path, sink: Sink) -> None:
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sink.write(chunk)


@attrs.frozen
class _Decision:
    """One entry of the record, as the planner's `Decision` looks in JSON."""

    slot: str
    subject: str
    chosen: Any
    alternatives: tuple[Any, ...]
    costs: tuple[float | None, ...]
    why: str


@attrs.frozen
class _Record:
    decisions: tuple[_Decision, ...]


class Artifact:
    """An artifact on disk. Opening it checks the container and reads the manifest; no code in it is loaded.

    The file is kept open, so that what was checked is what is used, even if the path is replaced meanwhile.

    Args:
        path: the file.

    Raises:
        ArtifactError: it is missing, no artifact, damaged, or holds what an artifact may not hold.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file: BinaryIO = self.path.open("rb")
        except OSError as error:
            raise ArtifactError(f"Artifact {self.path} cannot be read: {error.strerror}.") from error
        try:
            self._members = read_members(self.path, self._file)
            self._checked: set[str] = set()
            self.manifest = self._read_manifest()
        except BaseException:
            self._file.close()
            raise

    def _read_manifest(self) -> Manifest:
        member = self._members.get(form.MANIFEST)
        if member is None or member.size > form.limit_of(form.MANIFEST):
            raise ArtifactError(f"{self.path} is a zip file but no Tilewright artifact: it has no manifest.")
        manifest = parse_manifest(self.path, self._bytes(member))
        found = {name: member.size for name, member in self._members.items() if name != form.MANIFEST}
        if found != {name: section.size for name, section in manifest.sections.items()}:
            raise damaged(self.path, "its members are not the ones that its manifest lists")
        for name, size in found.items():
            if size > form.limit_of(name):
                raise damaged(self.path, f"{name} is larger than an artifact may hold")
        wanted = [name for variant in manifest.variants for name in (variant.library, variant.decisions)]
        wanted += [step.model.section for step in manifest.pipeline if step.model is not None]
        if missing := [name for name in (*wanted, form.WEIGHTS) if name not in found]:
            raise damaged(self.path, f"it has no {missing[0]}")
        return manifest

    def _bytes(self, member: Member) -> bytes:
        return os.pread(self._file.fileno(), member.size, member.offset)

    def _chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a section; raises at the end if their digest is not the manifest's."""
        member = self._members.get(name)
        if member is None:
            raise damaged(self.path, f"it has no {name}")
        digest = hashlib.sha256()
        for begin in range(member.offset, member.offset + member.size, _CHUNK):
            end = min(begin + _CHUNK, member.offset + member.size)
            chunk = os.pread(self._file.fileno(), end - begin, begin)
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != self.manifest.sections[name].sha256:
            raise damaged(self.path, f"the bytes of {name} are not those that were written")

    def read(self, name: str) -> bytes:
        """The bytes of a section, checked against its digest."""
        return b"".join(self._chunks(name))

    def decisions(self, variant: Variant) -> list[dict[str, Any]]:
        """The planner's record of one native program."""
        text = self.read(variant.decisions)
        try:
            decisions: list[dict[str, Any]] = json.loads(text)
            structure(_Record, {"decisions": decisions}, "")
        except (ValueError, RecursionError, ConfigError) as error:
            raise damaged(self.path, f"its record of decisions is wrong ({error})") from error
        return decisions

    def verify(self) -> None:
        """Reads every section and compares its digest.

        Raises:
            ArtifactError: a section was changed.
        """
        for name in self.manifest.sections:
            self._check(name)

    def _check(self, name: str) -> None:
        """Compares the digest of a section, once: the file that is open does not change."""
        if name not in self._checked:
            for _ in self._chunks(name):
                pass
            self._checked.add(name)

    def weights(self) -> Mapping[str, Array]:
        """Read-only views of the weights in the mapped file, checked against the digest; nothing is
        copied.
        """
        self._check(form.WEIGHTS)
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return map_weights(self.path, mapped, self._members[form.WEIGHTS])

    def model(self, model: Model) -> tuple[bytes, Mapping[str, Array]]:
        """A model that a step holds, without its weights, and those by ONNX name."""
        pool = self.weights()
        try:
            weights = {
                name: pool[weight.stored].view(dtypes.to_numpy(weight.dtype)) for name, weight in model.weights.items()
            }
        except (KeyError, ValueError, TypeError) as error:
            raise damaged(self.path, f"the weights of its model are not what it says ({error})") from error
        return self.read(model.section), weights

    @contextmanager
    def library(self, variant: Variant) -> Iterator[Path]:
        """A private copy of a program's library, checked against its digest and removed when the block ends."""
        folder = Path(tempfile.mkdtemp(prefix="tilewright-"))  # mode 0700
        try:
            path = folder / form.LIBRARY
            with path.open("xb") as file:
                for chunk in self._chunks(variant.library):
                    file.write(chunk)
            yield path
        finally:
            shutil.rmtree(folder)

    def copy_to(self, path: str | os.PathLike[str]) -> None:
        """Writes the same artifact to another path."""
        with replacing(path) as out:
            size = os.fstat(self._file.fileno()).st_size
            for begin in range(0, size, _CHUNK):
                out.write(os.pread(self._file.fileno(), _CHUNK, begin))

    def close(self) -> None:
        """Closes the file; weights that were mapped stay valid."""
        self._file.close()

    def __enter__(self) -> Artifact:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
