"""`tilewright plugins`."""

from __future__ import annotations

import click

from tilewright.cli.base import Command, LazyGroup
from tilewright.cli.output import Output, table
from tilewright.plugins.discovery import PluginFailure, discover
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import Backend, DeviceEntry, Legalization, Options, Pass, RecipeEntry, SlotValue

_COMMANDS = {
    "list": ("tilewright.cli.plugins:list_", "List the installed plugins; imports none of them."),
    "check": ("tilewright.cli.plugins:check", "Import every plugin and list what each registers."),
}


@click.group("plugins", cls=LazyGroup, lazy=_COMMANDS)
def group() -> None:
    """List or check the installed plugins."""


@click.command("list", cls=Command)
def list_(output: Output) -> None:
    """List the installed plugins. Only metadata is read; none of them is imported."""
    found = discover()
    rows = [[p.name, p.distribution, p.version, p.module] for p in found.plugins]
    output.result(
        {
            "plugins": [dict(zip(("name", "distribution", "version", "module"), row, strict=True)) for row in rows],
            "unusable": _failures(found.failures),
        },
        table(["plugin", "distribution", "version", "module"], rows),
    )
    for failure in found.failures:
        output.note(f"unusable: {failure}")


@click.command("check", cls=Command)
def check(output: Output) -> int:
    """Import every installed plugin and list what each registers; exit with 2 if one is broken."""
    registry = Registry()
    registry.load()
    rows = [
        [registry.provider(record).name, cls.kind, record.key]
        for cls in (SlotValue, Pass, RecipeEntry, Backend, DeviceEntry, Legalization, Options)
        for record in registry.records(cls).values()
    ]
    output.result(
        {
            "records": [dict(zip(("plugin", "kind", "name"), row, strict=True)) for row in rows],
            "unusable": _failures(registry.failures),
        },
        table(["plugin", "kind", "name"], sorted(rows)),
    )
    return 2 if registry.failures else 0


def _failures(failures: object) -> list[dict[str, str]]:
    assert isinstance(failures, tuple)
    return [_failure(failure) for failure in failures]


def _failure(failure: PluginFailure) -> dict[str, str]:
    return {
        "plugin": failure.plugin.name,
        "distribution": failure.plugin.distribution,
        "version": failure.plugin.version,
        "cause": failure.cause,
    }
