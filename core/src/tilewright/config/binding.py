"""Looking up the names of a configuration among the records of the installed plugins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from tilewright.config.schema import Config
from tilewright.config.structure import structure
from tilewright.plugins.discovery import PluginInfo
from tilewright.plugins.errors import UnknownNameError
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import (
    POINTS,
    SLOTS,
    Backend,
    DeviceEntry,
    Options,
    Pass,
    RecipeEntry,
    Record,
    SlotValue,
    Target,
)
from tilewright.threads import thread_count


@frozen
class Settings:
    """A configuration whose names are all found.

    Args:
        config: the configuration as given.
        target: the target, parsed and made definite.
        slots: the record that fills each slot; every slot is there.
        passes: the records of the passes at each point that has any, in running order.
        registry: where the names were found.
        threads: worker threads that a program for a CPU will have, and is planned for.
        keep_trials: whether what trials find out is looked up in the user's cache, and kept there.
    """

    config: Config
    target: Target
    slots: Mapping[str, SlotValue]
    passes: Mapping[str, tuple[Pass, ...]]
    registry: Registry = field(eq=False, repr=False)
    threads: int
    keep_trials: bool = False

    def options(self, name: str) -> Any:
        """The options that a plugin registered as `name`: an instance of its class, as configured.

        Raises:
            UnknownNameError: no plugin registered such options.
            ConfigError: a key is unknown or missing, or a value has the wrong type.
        """
        record = self.registry.get(Options, name, "table of options")
        cls = self.registry.resolve(record, record.cls)
        return structure(cls, self.config.options.get(name, {}), f"options.{name}")

    def plugins(self) -> tuple[PluginInfo, ...]:
        """The plugins whose code a compilation runs: those of slots, passes and options, backend, device and recipes.

        Legalisation rules are not among them: what they did stands in the module.
        """
        registry, backend = self.registry, self.target.backend
        chosen: list[Record] = [*self.slots.values(), *(x for passes in self.passes.values() for x in passes)]
        chosen += [registry.get(Options, x.options) for x in chosen if isinstance(x, SlotValue | Pass) and x.options]
        chosen += [registry.get(Backend, backend), registry.get(DeviceEntry, f"{backend}:{self.target.device}")]
        chosen += [x for x in registry.records(RecipeEntry).values() if x.backend == backend]
        used = {registry.provider(record) for record in chosen}
        return tuple(info for info in registry.loaded if info in used)

    def service(self, slot: str) -> Any:
        """The service that fills `slot`, made by its record's factory."""
        record = self.slots[slot]
        factory = self.registry.code(record, record.factory)
        made = factory() if record.options is None else factory(self.options(record.options))
        if not callable(made):
            raise self.registry.fault(record, f"Its factory must give a service that can be called, not {made!r}.")
        return self.registry.guarded(record, made)

    def runnable_passes(self) -> dict[str, tuple[Callable[[Any, Any], Any], ...]]:
        """The passes of each point, in the configured order, as functions of (IR, session); options are
        bound.
        """
        return {point: tuple(map(self._runnable, records)) for point, records in self.passes.items()}

    def _runnable(self, record: Pass) -> Callable[[Any, Any], Any]:
        run: Callable[..., Any] = self.registry.code(record, record.run)
        options = () if record.options is None else (self.options(record.options),)

        def change(ir: Any, session: Any) -> Any:
            changed = run(ir, session, *options)
            if changed is None and ir is not None:
                raise self.registry.fault(record, "It must return the IR to go on with, and returned None.")
            return changed

        return change


def bind(config: Config, registry: Registry, threads: int | None = None) -> Settings:
    """Finds every name of `config`.

    Args:
        threads: worker threads to plan for; default `TILEWRIGHT_NUM_THREADS`, or the processors of this process.

    Raises:
        UnknownNameError: a target, slot value, pass or table of options that nothing registered.
        ConfigError: an option is unknown or has the wrong type.
        PluginError: a plugin that is wanted is broken, or two are in conflict.
    """
    registry.load()
    target = registry.parse_target(config.target)
    slots = {slot: registry.slot(slot, name) for slot, name in config.slots.items()}
    for chosen in list(slots.values()):
        for slot, name in chosen.prefers.items():
            slots.setdefault(slot, registry.slot(slot, name))
    slots = {slot: slots.get(slot) or registry.slot(slot, default) for slot, default in SLOTS.items()}
    passes = {point: _passes(config, point, registry) for point in POINTS if config.passes.at(point)}
    settings = Settings(config, target, slots, passes, registry, thread_count(threads))
    for name in config.options:
        settings.options(name)
    return settings


def _passes(config: Config, point: str, registry: Registry) -> tuple[Pass, ...]:
    found = tuple(registry.get(Pass, name) for name in config.passes.at(point))
    for record in found:
        if point not in record.points:
            raise UnknownNameError(
                f"Pass {record.name!r} of plugin {registry.provider(record)} cannot stand at passes.{point}.",
                f"It can stand at: {', '.join(record.points)}.",
            )
    return found
