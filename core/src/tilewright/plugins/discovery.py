"""Finding plugins through installed metadata, without importing any of them."""

from __future__ import annotations

import configparser
import sys
import warnings
from collections.abc import Iterator, Sequence
from configparser import ConfigParser
from pathlib import Path

import entrypoints
from attrs import frozen

GROUP = "tilewright.plugins"

_BUILT_IN = ("tilewright-core", "tilewright-backends")
_UNREADABLE = (configparser.Error, OSError, UnicodeDecodeError)


@frozen
class PluginInfo:
    """What metadata says about one plugin.

    Args:
        name: the entry point's name; also the prefix of the plugin's record names.
        distribution: name of the distribution that brings it.
        version: that distribution's version.
        module: the module to import.
    """

    name: str
    distribution: str
    version: str
    module: str

    @property
    def built_in(self) -> bool:
        """Whether it is part of the compiler, so that a fault in its code is the compiler's."""
        return self.distribution in _BUILT_IN

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


@frozen
class PluginFailure:
    """A plugin that cannot be used, and why.

    Args:
        plugin: as far as it is known.
        cause: one sentence.
        error: the exception, where there was one, kept for `--debug`.
    """

    plugin: PluginInfo
    cause: str
    error: BaseException | None = None

    def __str__(self) -> str:
        return f"plugin {self.plugin}: {self.cause}"


@frozen
class Discovery:
    """What the installed metadata announces: usable entry points, and the unusable ones with their cause."""

    plugins: tuple[PluginInfo, ...]
    failures: tuple[PluginFailure, ...]


def discover(path: Sequence[str] | None = None) -> Discovery:
    """The plugins that the distributions on `path` (default `sys.path`) announce, in the order of the path.

    A distribution shadows one of the same name later on the path, as for imports. An unreadable entry point
    is a failure of its distribution alone.
    """
    plugins: list[PluginInfo] = []
    failures: list[PluginFailure] = []
    seen: set[str] = set()
    for folder in dict.fromkeys(sys.path if path is None else path):
        for parser, distribution in _distributions(folder or ".", failures):
            name = distribution.name.replace("_", "-").lower()
            if name in seen or GROUP not in parser:
                continue
            seen.add(name)
            for entry_name, text in parser[GROUP].items():
                version = distribution.version or "unknown"
                try:
                    entry = entrypoints.EntryPoint.from_string(text, entry_name)
                except entrypoints.BadEntryPoint:
                    entry = None
                if entry is None or entry.object_name:
                    broken = PluginInfo(entry_name, name, version, text)
                    failures.append(PluginFailure(broken, f"its entry point must be 'package.module', not {text!r}."))
                else:
                    plugins.append(PluginInfo(entry_name, name, version, entry.module_name))
    return Discovery(tuple(plugins), tuple(failures))


def _distributions(
    folder: str, failures: list[PluginFailure]
) -> Iterator[tuple[ConfigParser, entrypoints.Distribution]]:
    try:
        with warnings.catch_warnings(action="ignore"):
            yield from list(entrypoints.iter_files_distros(path=[folder]))
    except _UNREADABLE:
        # One unreadable file ends the walk of its whole folder: read the folder's files one by one instead.
        for file in sorted(Path(folder).glob("*.dist-info/entry_points.txt")):
            distribution = entrypoints.Distribution.from_name_version(file.parent.stem)
            parser = entrypoints.CaseSensitiveConfigParser(delimiters=("=",))
            try:
                parser.read_string(file.read_text(encoding="utf-8"), source=str(file))
            except _UNREADABLE as error:
                info = PluginInfo("?", distribution.name, distribution.version or "unknown", "?")
                failures.append(PluginFailure(info, f"{file} cannot be read: {error}", error))
            else:
                yield parser, distribution
