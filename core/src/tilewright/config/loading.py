"""Reading a configuration from a TOML file, a mapping or an object."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from tilewright.config.schema import FALLBACKS, SCHEMA, Config
from tilewright.config.structure import ConfigError, structure
from tilewright.plugins.errors import unknown_name

ConfigSource = str | os.PathLike[str] | Mapping[str, Any] | Config | None
"""What `config=` accepts: a path to a TOML file, a mapping of the same form, the object, or nothing."""


def load_config(source: ConfigSource = None, *, target: str | None = None, fallback: str | None = None) -> Config:
    """The configuration that `source` gives; `target` and `fallback` replace its own where they are given.

    Raises:
        ConfigError: the file cannot be read, or it is not a configuration; names the key and suggests the
            near one.
    """
    if isinstance(source, Config):
        config = source
    else:
        config = structure(Config, load_mapping(source), "")
    if fallback is not None and fallback not in FALLBACKS:
        raise unknown_name("value of fallback", fallback, FALLBACKS)
    if target is not None:
        config = attrs.evolve(config, target=target)
    return config if fallback is None else attrs.evolve(config, fallback=fallback)


def load_mapping(source: str | os.PathLike[str] | Mapping[str, Any] | None) -> dict[str, Any]:
    """The mapping behind a configuration, what it `extends` merged in. Paths are relative to the file, or to
    the working folder for a mapping.

    A table is merged key by key, anything else is replaced. A file must give `schema`.
    """
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return _extended(dict(source), Path(), ())
    return _from_file(Path(source), ())


def _from_file(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in chain:
        raise ConfigError(f"Configuration {path} extends itself, through {' → '.join(map(str, chain))}.")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Configuration {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"Configuration {path} is not valid TOML: {error}.") from error
    if data.get("schema") != SCHEMA:
        raise ConfigError(
            f"Configuration {path} needs schema = {SCHEMA} and has {data.get('schema', 'none')!r}.",
            f"Put schema = {SCHEMA} on its first line.",
        )
    return _extended(data, path.parent, (*chain, resolved))


def _extended(data: dict[str, Any], folder: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise ConfigError(f"extends must be the path of a configuration, not {base!r}.")
    return merge(_from_file(folder / base, chain), data)


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `change` laid over it: tables are merged key by key, everything else is replaced."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return result
