"""Roller as an installed plugin: found by its metadata, loaded, and harmless while nobody asks for it."""

from __future__ import annotations

from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tilewright.config import Config, ConfigError
from tilewright.config.binding import bind
from tilewright.plugins.discovery import discover
from tilewright.plugins.manager import Registry
from tilewright.testing.plugins import plan_without_and_with, records_of

NAME = "roller"


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
    assert {record.key for record in records_of(registry, NAME)} == {"propose=roller", "cost=roller", "roller"}


def test_the_proposer_brings_its_cost_model_unless_another_is_named() -> None:
    registry = Registry(strict=True)
    alone = bind(Config(target="cpu", slots={"propose": NAME}), registry)
    assert alone.slots["cost"].name == NAME
    other = bind(Config(target="cpu", slots={"propose": NAME, "cost": "roofline"}), registry)
    assert other.slots["cost"].name == "roofline"
    assert bind(Config(target="cpu"), registry).slots["cost"].name == "roofline"


@pytest.mark.parametrize(
    "table", [{"topk": 0}, {"topk": "ten"}, {"beam": -1}, {"measure": -1}, {"measure": 1.5}, {"top": 1}]
)
def test_options_that_are_none_are_told(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"options\.roller"):
        bind(Config(target="cpu", slots={"propose": NAME}, options={NAME: table}), Registry(strict=True))


def test_installed_it_changes_no_compilation() -> None:
    without, with_it = plan_without_and_with(NAME)
    assert NAME not in without.plugins
    assert NAME in with_it.plugins
    assert without.key == with_it.key
    assert without.program == with_it.program
