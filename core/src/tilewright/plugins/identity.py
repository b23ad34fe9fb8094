"""What code is installed: versions, and digests of the sources, so that an edited plugin never meets an old
cache.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tilewright.plugins.discovery import PluginInfo
from tilewright.plugins.manager import BUILTIN


def distribution_version(name: str) -> str:
    """Version of an installed distribution from its metadata, "not installed", or "unknown" if it
    gives none.
    """
    try:
        found: str | None = version(name)
    except PackageNotFoundError:
        return "not installed"
    return found or "unknown"


def code_identity(plugins: Iterable[PluginInfo]) -> dict[str, str]:
    """`version+digest` of the core and of the package of each of the (imported) plugins.

    The digest covers the Python sources and data files, so an editable installation changes it with every
    edit.
    """
    found = {"tilewright-core": _identity("tilewright-core", Path(__file__).parents[1])}
    for info in plugins:
        if info is BUILTIN:
            continue
        top = sys.modules[info.module.partition(".")[0]]
        file = Path(str(top.__file__))
        found[info.distribution] = _identity(info.distribution, file.parent if file.stem == "__init__" else file)
    return found


def _identity(distribution: str, source: Path) -> str:
    digest = hashlib.sha256()
    files = [source] if source.is_file() else source.rglob("*")
    for file in sorted(f for f in files if f.suffix in _SUFFIXES):
        digest.update(str(file.relative_to(source.parent)).encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return f"{distribution_version(distribution)}+{digest.hexdigest()[:16]}"


_SUFFIXES = (".py", ".toml", ".cu", ".h", ".c", ".cpp", ".so")
