"""Artifacts that someone changed and then gave the right sizes and digests, run one by one.

`python -m tests.product.crafted ARTIFACT FOLDER STRIDE` runs every STRIDE-th change of ARTIFACT, each in a process of
its own, forked after the imports, and prints a JSON list: how each command ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import sys
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

MANIFEST, WEIGHTS, DECISIONS, LIBRARY = "manifest.json", "weights.safetensors", "decisions.json", "library.so"
_SECONDS = 60

ANYTHING: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 1 << 40, 1 << 62, 1 << 70, 1.5, float("inf")),
    *("", "x", "float64", "int4", "cuda:h200", "../up", "\ud800\x1b[31m", "\0"),
    *([], {}, [[]], [1, 2, 3], {"x": 1}),
)
"""What is put in the place of each value."""


def mutations(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What `value` becomes by one change each, with words for it: every value inside it replaced, dropped, doubled."""
    for other in ANYTHING:
        yield f"{path} := {other!r}", other
    match value:
        case bool():
            yield f"{path} inverted", not value
        case int():
            for near in (value + 1, value - 1, 2 * value, -value):
                yield f"{path} := {near}", near
        case dict():
            yield f"{path} with one more", {**value, "more": 1}
            for key in value:
                yield f"{path}.{key} dropped", {k: v for k, v in value.items() if k != key}
                for words, changed in mutations(value[key], f"{path}.{key}"):
                    yield words, {**value, key: changed}
        case list():
            yield f"{path} reversed", value[::-1]
            for i in range(len(value)) if len(value) <= 4 else (0, len(value) - 1):
                yield f"{path}[{i}] dropped", value[:i] + value[i + 1 :]
                yield f"{path}[{i}] doubled", [*value[: i + 1], *value[i:]]
                for words, changed in mutations(value[i], f"{path}[{i}]"):
                    yield words, [*value[:i], changed, *value[i + 1 :]]


def crafted(members: dict[str, bytes]) -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """The command that reads the changed part, words for the change, and the members of the changed artifact."""
    for words, manifest in mutations(json.loads(members[MANIFEST]), "manifest"):
        yield "run", words, {**members, MANIFEST: json.dumps(manifest).encode()}
    (length,) = struct.unpack_from("<Q", members[WEIGHTS])
    header, data = members[WEIGHTS][8 : 8 + length], members[WEIGHTS][8 + length :]
    for words, changed in mutations(json.loads(header), "weights"):
        text = json.dumps(changed).encode()
        text += b" " * (-(8 + len(text)) % 64)
        yield "run", words, sealed({**members, WEIGHTS: struct.pack("<Q", len(text)) + text + data})
    for words, changed in mutations(json.loads(members.get(DECISIONS, b"[]"))[:1], "decisions"):
        yield "explain", words, sealed({**members, DECISIONS: json.dumps(changed).encode()})
    for name in members:
        for command in ("run", "explain"):
            yield command, f"no {name}", sealed({k: v for k, v in members.items() if k != name})
            for words, content in (
                ("empty", b""),
                ("text", b"no such thing"),
                ("a brace", b"{"),
                ("deep", b"[" * 99999),
            ):
                yield command, f"{name} is {words}", sealed({**members, name: content})


def sealed(members: dict[str, bytes]) -> dict[str, bytes]:
    """The members with sizes and digests in the manifest that are right."""
    try:
        manifest = json.loads(members[MANIFEST])
    except (KeyError, ValueError, RecursionError):
        return members
    manifest["sections"] = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in members.items()
        if name != MANIFEST
    }
    return {**members, MANIFEST: json.dumps(manifest).encode()}


def read(path: Path) -> dict[str, bytes]:
    """The members of an artifact."""
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write(path: Path, members: dict[str, bytes]) -> None:
    """An archive of the members, aligned as in an artifact."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            padding = -(archive.start_dir + 30 + len(name) + 4) % 64
            info.extra = struct.pack("<HH", 0xD935, padding) + bytes(padding)
            archive.writestr(info, content)


def ended(command: str, path: Path, output: Path) -> int:
    """The exit code of a command in a forked process, or minus the signal that ended it; `output` gets what it said."""
    child = os.fork()
    if child == 0:
        signal.alarm(_SECONDS)
        with output.open("wb") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        from tilewright.cli.app import cli
        from tilewright.cli.base import run

        code = run(cli, [command, str(path)])
        sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(artifact: str, folder: str, stride: str) -> None:
    """See the module."""
    for module in (
        "tilewright.cli.explain",
        "tilewright.cli.run",
        "tilewright.specialiser",
        "tilewright_backends.build.cpu",
        "tilewright_backends.load",
        "tilewright_backends.plugin",
    ):
        import_module(module)  # before the forks

    path, output = Path(folder, "crafted.tw"), Path(folder, "output.txt")
    found = []
    for command, words, members in list(crafted(read(Path(artifact))))[:: int(stride)]:
        write(path, members)
        code = ended(command, path, output)
        found.append((f"{command}: {words}", code, output.read_text(errors="replace")))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
