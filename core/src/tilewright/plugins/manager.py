"""Importing plugins one by one, each behind its own guard, and collecting what they register."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any, TypeVar

import pluggy
from attrs import frozen

from tilewright.errors import InternalError, TilewrightError, did_you_mean
from tilewright.plugins import hookspecs
from tilewright.plugins.discovery import Discovery, PluginFailure, PluginInfo, discover
from tilewright.plugins.errors import PluginError, attributed, plugin_fault, unknown_name
from tilewright.plugins.records import Backend, DeviceEntry, Record, SlotValue, Target
from tilewright.plugins.references import Reference, resolve

_log = logging.getLogger(__name__)
_R = TypeVar("_R", bound=Record)

BUILTIN = PluginInfo("tilewright", "tilewright-core", "built in", "tilewright.plugins.builtin")
"""The core's own defaults. They use the same hooks as every other plugin."""


@frozen
class _Provided:
    record: Record
    plugin: PluginInfo


class _RefusedError(Exception):
    """A plugin that was imported but breaks the rules; the text says which."""


class Registry:
    """The records of the plugins that were imported so far.

    Nothing is imported before `load`. Which plugins are imported, and in which order, never changes what a
    name means: two records of one name are an error.

    Args:
        discovery: what metadata announces; by default of `sys.path`.
        strict: a broken plugin is an error instead of a warning.
        disabled: names of plugins that are never imported.

    Raises:
        UnknownNameError: a name in `disabled` is no installed plugin's.
        PluginError: two plugins have one name, or `strict` is set and one is broken.
    """

    def __init__(
        self, discovery: Discovery | None = None, *, strict: bool = False, disabled: Iterable[str] = ()
    ) -> None:
        found = discover() if discovery is None else discovery
        self.strict = strict
        self._disabled = frozenset(disabled)
        self._check_disabled(found)
        self._pending = {info.name: info for info in reversed(found.plugins) if info.name not in self._disabled}
        self._loaded: list[PluginInfo] = []
        self._failures: list[PluginFailure] = []
        self._records: dict[type, dict[str, _Provided]] = {}
        self._hooks = pluggy.PluginManager(hookspecs.PROJECT)
        self._hooks.add_hookspecs(hookspecs)
        self._check_unique(found.plugins)
        self._load_one(BUILTIN)
        for failure in found.failures:
            if failure.plugin.name not in self._disabled:
                self._fail(failure)

    @property
    def failures(self) -> Sequence[PluginFailure]:
        """The plugins that cannot be used."""
        return tuple(self._failures)

    @property
    def loaded(self) -> Sequence[PluginInfo]:
        """The plugins that were imported, the built-in one first."""
        return tuple(self._loaded)

    def load(self, names: Iterable[str] | None = None) -> None:
        """Imports the named plugins, or all; those that are imported already or not installed are passed
        over.

        A plugin that fails is logged and kept in `failures`; the rest goes on.

        Raises:
            PluginError: two plugins register one name, or `strict` is set and a plugin fails.
        """
        wanted = list(self._pending) if names is None else [name for name in names if name in self._pending]
        for name in sorted(wanted):
            self._load_one(self._pending.pop(name))

    def records(self, cls: type[_R]) -> Mapping[str, _R]:
        """All records of one class by key, from the plugins imported so far."""
        return MappingProxyType({key: p.record for key, p in self._of(cls).items()})  # type: ignore[misc]

    def get(self, cls: type[_R], key: str, what: str = "") -> _R:
        """The record of class `cls` with this key. Imports the plugin whose name the key starts with, then
        all others, if no imported one has it.

        Raises:
            UnknownNameError: no plugin registers it; suggests the nearest name.
        """
        name = key.partition("=")[2] or key
        self.load([name.partition(".")[0]])
        if key not in self._of(cls):
            self.load()
        provided = self._of(cls).get(key)
        if provided is None:
            prefix = key.partition("=")[0] + "=" if "=" in key else ""
            known = [k.removeprefix(prefix) for k in self._of(cls) if k.startswith(prefix)]
            raise unknown_name(what or cls.kind, name, known, self._why_missing())
        return provided.record  # type: ignore[return-value]

    def slot(self, slot: str, name: str) -> SlotValue:
        """The value `name` of `slot`."""
        return self.get(SlotValue, f"{slot}={name}", f"value of slot {slot!r}")

    def provider(self, record: Record) -> PluginInfo:
        """The plugin that registered `record`."""
        return self._of(type(record))[record.key].plugin

    def resolve(self, record: Record, reference: Reference) -> Any:
        """The code that a field of `record` names.

        Raises:
            PluginError: the import fails; names record, plugin, distribution and cause.
        """
        try:
            return resolve(reference)
        except Exception as error:
            raise PluginError(
                f"{record.kind.capitalize()} {record.name!r} of plugin {self.provider(record)} cannot be "
                f"loaded from {reference!r}: {type(error).__name__}: {error}.",
                "Repair or uninstall that distribution, or choose another value.",
            ) from error

    def code(self, record: Record, reference: Reference) -> Any:
        """The function that a field of `record` names, guarded: see `guarded`. Errors as for `resolve`."""
        return self.guarded(record, self.resolve(record, reference))

    def guarded(self, record: Record, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, which `record` brought, so that an exception in it names the plugin.

        What it refuses on purpose (an `InputError`) goes through, and so does every fault of built-in code.
        """
        plugin = self.provider(record)
        return function if plugin.built_in else attributed(function, lambda text: self.fault(record, text))

    def fault(self, record: Record, text: str) -> TilewrightError:
        """The error for a fault of the code that `record` brought: `text` with its plugin, or the compiler's own."""
        plugin = self.provider(record)
        if plugin.built_in:
            return InternalError(text)
        return plugin_fault(f"{record.kind.capitalize()} {record.name!r} of plugin {plugin}", text)

    def parse_target(self, text: str) -> Target:
        """Asks the plugins which of them recognises a target string.

        Raises:
            UnknownNameError: none does.
            PluginError: a plugin fails over it.
        """
        self.load()
        for implementation in reversed(self._hooks.hook.tilewright_parse_target.get_hookimpls()):
            target = self._ask_for_target(implementation, text)
            if target is not None:
                return target
        raise unknown_name("target", text, [*self._of(Backend), *self._of(DeviceEntry)], self._why_missing())

    def _ask_for_target(self, implementation: pluggy.HookImpl, text: str) -> Target | None:
        (plugin,) = (info for info in self._loaded if info.name == implementation.plugin_name)
        what = f"Hook tilewright_parse_target of plugin {plugin}"
        ask = implementation.function
        found = ask(text) if plugin.built_in else attributed(ask, partial(plugin_fault, what))(text)
        if found is not None and not isinstance(found, Target):
            raise plugin_fault(what, f"It must give a Target or None, not {found!r}.")
        return found

    def _of(self, cls: type) -> dict[str, _Provided]:
        return self._records.setdefault(cls, {})

    def _why_missing(self) -> str:
        parts = [f"Not usable: {failure}" for failure in self._failures]
        if self._disabled:
            parts.append(f"Disabled by configuration: {', '.join(sorted(self._disabled))}.")
        return " ".join(parts)

    def _check_disabled(self, found: Discovery) -> None:
        installed = {info.name for info in (*found.plugins, *(failure.plugin for failure in found.failures))}
        for name in sorted(self._disabled - installed):
            raise unknown_name("installed plugin", name, installed, "It stands in plugins.disabled.")

    def _check_unique(self, plugins: Sequence[PluginInfo]) -> None:
        by_name: dict[str, PluginInfo] = {BUILTIN.name: BUILTIN}
        for info in plugins:
            other = by_name.setdefault(info.name, info)
            if other is not info and info.name not in self._disabled:
                raise PluginError(
                    f"Two plugins are named {info.name!r}: one of {other.distribution} {other.version}, "
                    f"one of {info.distribution} {info.version}.",
                    "Uninstall one of the two.",
                )

    def _load_one(self, info: PluginInfo) -> None:
        try:
            module = self._import(info)
            provided = self._register(info, module)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's module must not end the run
            cause = str(error) if isinstance(error, _RefusedError) else f"{type(error).__name__}: {error}"
            self._fail(PluginFailure(info, cause, error))
            return
        self._loaded.append(info)
        for entry in provided:
            self._add(entry)

    def _import(self, info: PluginInfo) -> Any:
        module = import_module(info.module)
        declared = getattr(module, "TILEWRIGHT_API", None)
        if declared is None:
            raise _RefusedError(
                f"module {info.module} does not say for which hooks it was written; it needs "
                f"TILEWRIGHT_API = {hookspecs.API_VERSION}."
            )
        if declared != hookspecs.API_VERSION:
            raise _RefusedError(
                f"it was written for version {declared!r} of the hooks, and this is version "
                f"{hookspecs.API_VERSION}; install a release of {info.distribution} that fits, or another "
                "release of tilewright-core."
            )
        return module

    def _register(self, info: PluginInfo, module: Any) -> list[_Provided]:
        self._hooks.register(module, info.name)
        try:
            self._check_hooks(info, module)
            return [_Provided(record, info) for record in self._collect(info)]
        except BaseException:
            self._hooks.unregister(name=info.name)
            raise

    def _check_hooks(self, info: PluginInfo, module: Any) -> None:
        known = [*hookspecs.RECORD_HOOKS, "tilewright_parse_target"]
        try:
            self._hooks.check_pending()
        except pluggy.PluginValidationError as error:
            implemented = [caller.name for caller in self._hooks.get_hookcallers(module) or ()]
            wrong = next((name for name in implemented if name not in known), "")
            raise _RefusedError(f"it implements {wrong}, which is no hook. {did_you_mean(wrong, known)}") from error
        implemented = []
        for caller in self._hooks.get_hookcallers(module) or ():
            implemented.append(caller.name)
            if any(x.plugin_name == info.name and (x.hookwrapper or x.wrapper) for x in caller.get_hookimpls()):
                raise _RefusedError(f"{caller.name} cannot be wrapped.")
        for name, value in vars(module).items():
            if name.startswith("tilewright_") and inspect.isfunction(value) and name not in implemented:
                raise _RefusedError(f"{name} lacks the decorator @hookimpl, so it would never be called.")

    def _collect(self, info: PluginInfo) -> Iterable[Record]:
        for hook, cls in hookspecs.RECORD_HOOKS.items():
            caller = getattr(self._hooks.hook, hook)
            # Called one implementation at a time: it says who registered what, and one failure stays one
            # plugin's.
            for implementation in caller.get_hookimpls():
                if implementation.plugin_name != info.name:
                    continue
                for record in implementation.function():
                    if not isinstance(record, cls):
                        raise _RefusedError(f"{hook} must give {cls.__name__} records, not {record!r}.")
                    yield record

    def _add(self, entry: _Provided) -> None:
        cls = type(entry.record)
        other = self._of(cls).setdefault(entry.record.key, entry)
        if other is not entry:
            raise PluginError(
                f"Two plugins register the {entry.record.kind} {entry.record.key!r}: {other.plugin} and "
                f"{entry.plugin}.",
                "Uninstall one of the two distributions, or name one of the plugins in plugins.disabled of "
                "the configuration.",
            )

    def _fail(self, failure: PluginFailure) -> None:
        if self.strict:
            raise PluginError(
                f"With --strict a broken plugin ends the run: {failure}",
                f"Repair or uninstall {failure.plugin.distribution}, or leave out --strict.",
            ) from failure.error
        self._failures.append(failure)
        _log.warning("%s It is left out.", failure)
