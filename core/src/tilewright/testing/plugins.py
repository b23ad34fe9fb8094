"""What an installed plugin registers, and whether its mere presence changes a compilation: for the tests of plugins."""

from __future__ import annotations

import attrs

from tilewright.api import compilation_key
from tilewright.compiler import load_module, plan_module
from tilewright.config import load_config
from tilewright.config.binding import bind
from tilewright.ir.keys import identity
from tilewright.ir.serial import dump
from tilewright.plugins.hookspecs import RECORD_HOOKS
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import Record
from tilewright.testing.models import BUILDERS


@attrs.frozen
class Planned:
    """One model planned with the defaults of every slot.

    Args:
        plugins: names of the plugins that were imported.
        key: the cache's key of the compilation.
        program: the program, in the form in which it is stored.
    """

    plugins: frozenset[str]
    key: str
    program: str = attrs.field(repr=False)


def records_of(registry: Registry, name: str) -> list[Record]:
    """What the plugin called `name` has registered."""
    every: list[Record] = [record for cls in RECORD_HOOKS.values() for record in registry.records(cls).values()]
    return [record for record in every if registry.provider(record).name == name]


def plan_without_and_with(name: str, model: str = "gpt", target: str = "cpu:x86-64-v3") -> tuple[Planned, Planned]:
    """One of the blocks in `tilewright.testing.models`, planned while a plugin is disabled and while it is not."""

    def planned(disabled: tuple[str, ...]) -> Planned:
        registry = Registry(strict=True, disabled=disabled)
        settings = bind(load_config({"target": target}), registry)
        module = load_module(BUILDERS[model]().model, settings)
        program = plan_module(module, settings).program
        loaded = frozenset(info.name for info in registry.loaded)
        return Planned(loaded, compilation_key([identity(module)], [model], settings), dump(program))

    return planned((name,)), planned(())
