"""Results of trials in the user's cache: what is equal is compiled and measured once, in whichever compilation.

The key is everything that a result depends on: the group's structure, the choice, the target and its device model, the
code of the plugins in use and the toolchain; for a measurement the machine and its threads too.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tilewright.artifact.errors import ArtifactError
from tilewright.cache import Cache, cache_key
from tilewright.config.binding import Settings
from tilewright.device import DeviceModel
from tilewright.ir.choice import TileChoice
from tilewright.plugins.identity import code_identity
from tilewright.plugins.records import Backend


class CachedTrials:
    """Trial results for one configuration (a `Store`); nothing is looked up before the first trial."""

    def __init__(self, settings: Settings, device: DeviceModel) -> None:
        self._settings = settings
        self._device = device

    @cached_property
    def _cache(self) -> Cache:
        return Cache()

    @cached_property
    def _common(self) -> dict[str, object]:
        """The part of the key that all results of the configuration share."""
        settings = self._settings
        backend = settings.registry.get(Backend, settings.target.backend)
        return {
            "target": str(settings.target),
            "device": repr(self._device),
            "code": code_identity(settings.plugins()),
            "toolchain": dict(settings.registry.code(backend, backend.versions)()),
        }

    def find(self, kind: str, group: str, choice: TileChoice) -> Mapping[str, Any] | None:
        """The stored result, or None; a damaged entry is none, and is removed."""
        return self._cache.find(self._key(kind, group, choice), _read)

    def keep(self, kind: str, group: str, choice: TileChoice, result: Mapping[str, Any]) -> None:
        """Stores a result."""
        text = json.dumps(result, sort_keys=True)
        document = json.dumps({"result": text, "digest": cache_key({"result": text})})
        self._cache.put(self._key(kind, group, choice), lambda path: path.write_text(document, encoding="utf-8"))

    def _key(self, kind: str, group: str, choice: TileChoice) -> str:
        run = {"machine": platform.node(), "threads": self._settings.threads} if kind == "measure" else {}
        chosen = [choice.recipe, sorted(choice.params)]
        return cache_key({"trial": kind, "group": group, "choice": chosen, **self._common, **run})


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        text = document["result"]
        if document["digest"] != cache_key({"result": text}):
            raise ValueError("its digest is another")
        result: Mapping[str, Any] = json.loads(text)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"The result of a trial in {path} is damaged: {error}.") from error
    return result
