"""What the cache knows of the installed code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilewright.plugins.discovery import discover
from tilewright.plugins.identity import code_identity, distribution_version
from tilewright.plugins.manager import Registry


def test_the_identity_changes_with_every_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "acme_identity-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[tilewright.plugins]\nacme = acme_identity.plugin\n")
    package = tmp_path / "acme_identity"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "plugin.py").write_text("TILEWRIGHT_API = 1\n")
    (package / "other.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry(discover([str(tmp_path)]))
    assert set(code_identity(registry.loaded)) == {"tilewright-core"}
    registry.load()
    first = code_identity(registry.loaded)
    assert set(first) == {"tilewright-core", "acme-identity"}
    assert code_identity(registry.loaded) == first
    (package / "other.py").write_text("x = 2\n")
    second = code_identity(registry.loaded)
    assert second["acme-identity"] != first["acme-identity"]
    assert second["tilewright-core"] == first["tilewright-core"]
    (package / "notes.txt").write_text("no code")
    assert code_identity(registry.loaded) == second


def test_versions_come_from_metadata() -> None:
    assert distribution_version("attrs")[0].isdigit()
    assert distribution_version("no-such-distribution") == "not installed"
