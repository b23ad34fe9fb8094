"""Grinder as an installed plugin: found by its metadata, loaded, and harmless while nobody asks for it."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest
from packaging.requirements import Requirement

from tilewright.config import Config, ConfigError
from tilewright.config.binding import bind
from tilewright.plugins.discovery import discover
from tilewright.plugins.manager import Registry
from tilewright.testing.plugins import plan_without_and_with, records_of

NAME = "grinder"


def test_its_metadata() -> None:
    (found,) = [plugin for plugin in discover().plugins if plugin.name == NAME]
    assert (found.distribution, found.module) == (f"tilewright-{NAME}", f"tilewright_{NAME}.plugin")
    assert found.version == metadata.version("tilewright-core")
    needed = [Requirement(line) for line in metadata.requires(found.distribution) or ()]
    assert [str(need) for need in needed] == [f"tilewright-core=={found.version}"]


def test_it_registers() -> None:
    registry = Registry(strict=True)
    registry.load([NAME])
    assert [plugin.name for plugin in registry.loaded] == ["tilewright", NAME]
    keys = {record.key for record in records_of(registry, NAME)}
    assert keys == {"control_rewrite=grinder", "control_place=grinder", "grinder"}


WRONG = [{"inline": -1}, {"unroll": 1.5}, {"factor": 0}, {"branch": -1.0}, {"taken": 2}, {"wavefront": ""}, {"at": 3}]
WRONG += [{"level": "gpu"}, {"levels": {"loop": "auto"}}, {"trips": -1}]


@pytest.mark.parametrize("options", WRONG)
def test_wrong_options_are_named(options: dict[str, Any]) -> None:
    registry = Registry(strict=True)
    with pytest.raises(ConfigError, match=next(iter(options))):
        bind(Config(target="cpu", slots={"control_rewrite": NAME}, options={NAME: options}), registry)


def test_installed_it_changes_no_compilation() -> None:
    without, with_it = plan_without_and_with(NAME)
    assert NAME not in without.plugins
    assert NAME in with_it.plugins
    assert without.key == with_it.key
    assert without.program == with_it.program
