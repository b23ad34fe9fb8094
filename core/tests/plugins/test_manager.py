"""Discovery, isolation and conflicts, with distributions that are really on the path."""

from __future__ import annotations

import logging
import sys
import textwrap
import uuid
from pathlib import Path

import pytest

from tilewright.plugins import SlotValue, Target
from tilewright.plugins.discovery import discover
from tilewright.plugins.errors import PluginError, UnknownNameError
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import Pass


class Site:
    """A folder on the path, into which a test installs distributions of unique names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []

    def install(self, stem: str, source: str | None, *, header: bool = True, entry: str | None = None) -> str:
        name = f"{stem}{uuid.uuid4().hex[:8]}"
        info = self.folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "entry_points.txt").write_text(f"[tilewright.plugins]\n{name} = {entry or name + '_plugin'}\n")
        if source is not None:
            head = "from tilewright.plugins import *\nTILEWRIGHT_API = 1\n" if header else ""
            text = textwrap.dedent(source).replace("NAME", name)
            (self.folder / f"{name}_plugin.py").write_text(head + text)
        self.names.append(name)
        return name

    def registry(self, **options: object) -> Registry:
        return Registry(discover([str(self.folder)]), **options)  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Site(tmp_path)


GOOD = """
@hookimpl
def tilewright_slots():
    yield SlotValue("connect", "NAME.greedy", "json:dumps")
"""


def test_discovery_reads_metadata_and_imports_nothing(site: Site) -> None:
    name = site.install("good", "raise RuntimeError('imported')")
    found = discover([str(site.folder)])
    assert [(p.name, p.distribution, p.version) for p in found.plugins] == [(name, name, "1.0")]
    assert f"{name}_plugin" not in sys.modules


def test_a_record_is_found_by_its_plugins_prefix_and_only_that_plugin_is_imported(site: Site) -> None:
    wanted, other = site.install("wanted", GOOD), site.install("other", GOOD)
    registry = site.registry()
    record = registry.slot("connect", f"{wanted}.greedy")
    assert registry.provider(record).distribution == wanted
    assert f"{wanted}_plugin" in sys.modules
    assert f"{other}_plugin" not in sys.modules


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("import no_such_module_at_all", "no_such_module_at_all"),
        ("raise SystemExit(3)", "SystemExit"),
        ("TILEWRIGHT_API = 99", "version 99 of the hooks, and this is version 1"),
        ("del TILEWRIGHT_API", "needs TILEWRIGHT_API = 1"),
        ("@hookimpl\ndef tilewright_slotz(): return []", "Did you mean 'tilewright_slots'?"),
        ("def tilewright_slots(): return []", "lacks the decorator @hookimpl"),
        ("@hookimpl\ndef tilewright_slots(surprise): return []", "surprise"),
        ("@hookimpl\ndef tilewright_slots(): return ['text']", "must give SlotValue records"),
        ("@hookimpl\ndef tilewright_slots(): yield SlotValue('conect', 'x', 'a:b')", "conect"),
        ("@hookimpl\ndef tilewright_slots(): yield SlotValue('connect', 'x', 'no reference')", "no reference"),
        ("@hookimpl(wrapper=True)\ndef tilewright_slots():\n    return (yield)", "cannot be wrapped"),
        ("@hookimpl\ndef tilewright_passes(): yield Pass('p', 'a:b', ['after.conect'])", "after.conect"),
    ],
)
def test_a_broken_plugin_is_named_and_the_rest_goes_on(
    site: Site, caplog: pytest.LogCaptureFixture, source: str, cause: str
) -> None:
    broken, good = site.install("broken", source), site.install("good", GOOD)
    registry = site.registry()
    with caplog.at_level(logging.WARNING, "tilewright"):
        registry.load()
    (failure,) = registry.failures
    assert broken in str(failure)
    assert "1.0" in str(failure)
    assert cause in failure.cause
    assert cause in caplog.text
    assert registry.slot("connect", f"{good}.greedy").name == f"{good}.greedy"


def test_strict_makes_a_broken_plugin_fatal(site: Site) -> None:
    broken = site.install("broken", "raise RuntimeError('boom')")
    with pytest.raises(PluginError, match=rf"{broken} 1\.0.*boom"):
        site.registry(strict=True).load()


def test_a_module_that_is_missing_or_an_entry_point_that_is_malformed_is_a_failure(site: Site) -> None:
    missing = site.install("missing", None)
    malformed = site.install("malformed", None, entry="not an entry point!")
    registry = site.registry()
    registry.load()
    assert {f.plugin.name for f in registry.failures} == {missing, malformed}


def test_an_unreadable_entry_points_file_costs_only_its_own_distribution(site: Site) -> None:
    good = site.install("good", GOOD)
    bad = site.folder / "bad-2.0.dist-info"
    bad.mkdir()
    (bad / "entry_points.txt").write_text("no section\n")
    registry = site.registry()
    assert [f.plugin.distribution for f in registry.failures] == ["bad"]
    assert registry.slot("connect", f"{good}.greedy")


def test_a_plugin_that_fails_half_way_registers_nothing(site: Site) -> None:
    name = site.install("half", GOOD + "    raise RuntimeError('half way')\n")
    registry = site.registry()
    registry.load()
    assert not [key for key in registry.records(SlotValue) if name in key]


def test_two_records_of_one_name_are_an_error_naming_both_providers(site: Site) -> None:
    source = "@hookimpl\ndef tilewright_slots(): yield SlotValue('connect', 'same', 'a:b')\n"
    first, second = site.install("a", source), site.install("b", source)
    with pytest.raises(PluginError) as caught:
        site.registry().load()
    assert first in str(caught.value)
    assert second in str(caught.value)
    assert site.registry(disabled=[second]).slot("connect", "same")


def test_a_built_in_name_cannot_be_taken(site: Site) -> None:
    site.install("thief", "@hookimpl\ndef tilewright_slots(): yield SlotValue('connect', 'epilogue', 'a:b')\n")
    with pytest.raises(PluginError, match="tilewright-core"):
        site.registry().load()


def test_one_name_in_two_slots_is_no_conflict(site: Site) -> None:
    site.install(
        "both",
        "@hookimpl\ndef tilewright_slots():\n    yield SlotValue('connect', 'x', 'a:b')\n"
        "    yield SlotValue('propose', 'x', 'a:b')\n",
    )
    registry = site.registry()
    assert registry.slot("connect", "x").slot == "connect"
    assert registry.slot("propose", "x").slot == "propose"


def test_an_unknown_name_suggests_the_near_one_and_tells_of_broken_plugins(site: Site) -> None:
    site.install("broken", "raise RuntimeError('boom')")
    with pytest.raises(UnknownNameError, match=r"'epilog'.*Did you mean 'epilogue'\?.*boom"):
        site.registry().slot("connect", "epilog")


def test_a_disabled_plugin_is_never_imported(site: Site) -> None:
    name = site.install("good", GOOD)
    registry = site.registry(disabled=[name])
    registry.load()
    assert f"{name}_plugin" not in sys.modules
    with pytest.raises(UnknownNameError, match="Disabled by configuration"):
        registry.slot("connect", f"{name}.greedy")


def test_a_disabled_plugin_must_be_installed(site: Site) -> None:
    name = site.install("good", GOOD)
    with pytest.raises(UnknownNameError, match=rf"no installed plugin named '{name}x'.*Did you mean '{name}'\?"):
        site.registry(disabled=[f"{name}x"])


def test_a_broken_plugin_can_be_disabled(site: Site) -> None:
    name = site.install("broken", None, entry="not a module")
    assert site.registry().failures
    assert not site.registry(disabled=[name], strict=True).failures


def test_code_that_fails_to_load_names_record_plugin_and_cause(site: Site) -> None:
    name = site.install(
        "lazy", "@hookimpl\ndef tilewright_slots(): yield SlotValue('connect', 'NAME.x', 'no_such_mod:f')\n"
    )
    registry = site.registry()
    record = registry.slot("connect", f"{name}.x")
    with pytest.raises(PluginError, match=rf"{name}\.x.*{name} 1\.0.*no_such_mod"):
        registry.resolve(record, record.factory)


def test_a_reference_is_resolved_only_on_demand(site: Site) -> None:
    name = site.install("lazy", GOOD)
    registry = site.registry()
    record = registry.slot("connect", f"{name}.greedy")
    assert registry.resolve(record, record.factory)([1]) == "[1]"


def test_the_first_plugin_that_recognises_a_target_wins(site: Site) -> None:
    source = """
    @hookimpl
    def tilewright_parse_target(text):
        backend, _, device = text.partition(":")
        return Target(backend, device or "one") if backend == "NAME" else None
    """
    first, second = site.install("npu", source), site.install("tpu", source)
    registry = site.registry()
    assert registry.parse_target(second) == Target(second, "one")
    assert str(registry.parse_target(f"{first}:two")) == f"{first}:two"
    with pytest.raises(UnknownNameError, match="no target named 'gpu'"):
        registry.parse_target("gpu")


def test_passes_are_found_with_their_points(site: Site) -> None:
    name = site.install("p", "@hookimpl\ndef tilewright_passes(): yield Pass('NAME.x', 'a:b', ['after.connect'])\n")
    assert site.registry().get(Pass, f"{name}.x").points == ("after.connect",)
