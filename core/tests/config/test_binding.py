"""A configuration's names are looked up among records; none of them can name code."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen

from tilewright.config import ConfigError, load_config
from tilewright.config.binding import Settings, bind
from tilewright.plugins import Options, Pass, SlotValue, Target, hookimpl
from tilewright.plugins.discovery import Discovery, PluginInfo
from tilewright.plugins.errors import UnknownNameError
from tilewright.plugins.manager import Registry


@frozen
class AcmeOptions:
    topk: int = 3
    names: tuple[str, ...] = ()


def _topk(options: AcmeOptions) -> Callable[..., object]:
    return lambda *_: ("topk", options)


def _plugin() -> types.ModuleType:
    module = types.ModuleType("acme_in_memory")
    module.TILEWRIGHT_API = 1  # type: ignore[attr-defined]

    @hookimpl
    def tilewright_slots() -> list[SlotValue]:
        return [
            SlotValue("connect", "acme.plain", lambda: lambda *_: "plain service"),
            SlotValue("propose", "acme.topk", _topk, options="acme", prefers={"cost": "acme.cost"}),
            SlotValue("cost", "acme.cost", lambda: "acme's cost"),
        ]

    @hookimpl
    def tilewright_passes() -> list[Pass]:
        return [
            Pass("acme.add", lambda ir, context: [*ir, "add"], ("after.connect",)),
            Pass("acme.opt", lambda ir, context, o: [*ir, o.topk], ("after.connect",), options="acme"),
        ]

    @hookimpl
    def tilewright_options() -> list[Options]:
        return [Options("acme", AcmeOptions)]

    @hookimpl
    def tilewright_parse_target(text: str) -> Target | None:
        backend, _, device = text.partition(":")
        return Target("cpu", device or "generic") if backend == "cpu" else None

    for name, value in list(locals().items()):
        if name.startswith("tilewright_"):
            setattr(module, name, value)
    return module


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setitem(sys.modules, "acme_in_memory", _plugin())
    info = PluginInfo("acme", "acme-tools", "1.2", "acme_in_memory")
    return Registry(Discovery((info,), ()), strict=True)


def settings(registry: Registry, **data: Any) -> Settings:
    return bind(load_config(data), registry)


def test_every_slot_has_a_value(registry: Registry) -> None:
    names = {slot: record.name for slot, record in settings(registry).slots.items()}
    assert names == {
        "control_rewrite": "identity",
        "connect": "epilogue",
        "propose": "divisors",
        "cost": "roofline",
        "schedule": "one-kernel-per-group",
        "control_place": "host",
        "planner": "staged",
    }


def test_a_chosen_value_is_made_by_its_factory_with_its_options(registry: Registry) -> None:
    bound = settings(
        registry,
        slots={"connect": "acme.plain", "propose": "acme.topk"},
        options={"acme": {"topk": 7, "names": ["a"]}},
    )
    assert bound.service("connect")(None, None) == "plain service"
    assert bound.service("propose")(None, None) == ("topk", AcmeOptions(7, ("a",)))


def test_a_cost_left_out_is_what_the_proposer_prefers(registry: Registry) -> None:
    assert settings(registry, slots={"propose": "acme.topk"}).slots["cost"].name == "acme.cost"
    explicit = settings(registry, slots={"propose": "acme.topk", "cost": "roofline"})
    assert explicit.slots["cost"].name == "roofline"


def test_passes_run_in_the_configured_order(registry: Registry) -> None:
    bound = settings(registry, passes={"after": {"connect": ["acme.opt", "acme.add"]}})
    passes = bound.runnable_passes()
    assert list(passes) == ["after.connect"]
    ir: list[object] = []
    for run in passes["after.connect"]:
        ir = run(ir, None)
    assert ir == [3, "add"]


def test_the_target_is_made_definite(registry: Registry) -> None:
    assert str(settings(registry).target) == "cpu:generic"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"target": "cppu"}, ["'cppu'"]),
        ({"slots": {"connect": "acme.plane"}}, ["slot 'connect'", "'acme.plane'", "'acme.plain'"]),
        ({"passes": {"after": {"connect": ["acme.ad"]}}}, ["pass", "'acme.add'"]),
        ({"passes": {"before": {"connect": ["acme.add"]}}}, ["before.connect", "acme-tools 1.2", "after.connect"]),
        ({"options": {"acmee": {}}}, ["'acmee'", "'acme'"]),
    ],
)
def test_an_unknown_name_is_an_error_with_the_near_one(
    registry: Registry, data: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UnknownNameError) as caught:
        settings(registry, **data)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"topkk": 1}, ["options.acme", "'topkk'", "'topk'"]),
        ({"topk": "1"}, ["options.acme.topk", "a whole number"]),
        ({"topk": True}, ["options.acme.topk"]),
        ({"names": "abc"}, ["options.acme.names", "a list"]),
    ],
)
def test_a_wrong_option_is_an_error(registry: Registry, options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(registry, options={"acme": options})
    for word in words:
        assert word in str(caught.value)


def test_configuration_cannot_import_code(registry: Registry, tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "evil_module_of_this_test.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "evil_module_of_this_test:run"
    for data in (
        {"target": name},
        {"slots": {"connect": name}},
        {"slots": {"planner": "evil_module_of_this_test"}},
        {"passes": {"after": {"connect": [name]}}},
        {"options": {name: {}}},
    ):
        with pytest.raises(UnknownNameError):
            settings(registry, **data)
    assert "evil_module_of_this_test" not in sys.modules
