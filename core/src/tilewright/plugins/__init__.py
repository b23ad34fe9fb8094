"""Plugins: the hooks, the records that plugins register through them, and the registry that collects the
records.

A plugin author needs `hookimpl` and the record classes; docs/hooks.md describes each hook.
"""

from tilewright.plugins.hookspecs import API_VERSION, hookimpl
from tilewright.plugins.records import (
    Backend,
    DeviceEntry,
    Legalization,
    Options,
    Pass,
    RecipeEntry,
    SlotValue,
    Target,
)

__all__ = [
    "API_VERSION",
    "Backend",
    "DeviceEntry",
    "Legalization",
    "Options",
    "Pass",
    "RecipeEntry",
    "SlotValue",
    "Target",
    "hookimpl",
]
