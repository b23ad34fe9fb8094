"""From a model to an artifact: the stages of a compilation, in order.

    import -> legalize -> control_rewrite -> connect -> propose/schedule -> control_place -> build -> artifact
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs

from tilewright.config.binding import Settings
from tilewright.device import DeviceModel
from tilewright.device.calibration import calibrated
from tilewright.errors import InputError, InternalError
from tilewright.frontend import import_model
from tilewright.frontend.legalize import Rule, Table, builtin_table, legalize
from tilewright.frontend.shapes import Shape
from tilewright.frontend.text import given_module, is_text
from tilewright.ir.module import Module
from tilewright.ir.program import Program, launches
from tilewright.ir.verify import verify_module, verify_program
from tilewright.ir.verify.tree import tasks_of
from tilewright.planning.requests import Decision
from tilewright.planning.session import Session
from tilewright.plugins.errors import PluginError
from tilewright.plugins.manager import Registry
from tilewright.plugins.records import Backend, DeviceEntry, Legalization, RecipeEntry
from tilewright.recipes import Match, Recipe
from tilewright.runtime.native import BuildOutput
from tilewright.trials import CachedTrials

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@attrs.frozen
class Plan:
    """A planned model and how it came about.

    Args:
        program: what the backend builds.
        decisions: the record that `explain` reads.
        seconds: time of each stage.
    """

    program: Program
    decisions: tuple[Decision, ...]
    seconds: Mapping[str, float]


class Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to the stage and logs it."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        _log.info("%s: %.2f s", name, self.seconds[name])


def device_of(settings: Settings) -> DeviceModel:
    """The device model of the configured target, with the numbers of its calibration where one is stored."""
    return calibrated(base_device(settings), str(settings.target))


def base_device(settings: Settings) -> DeviceModel:
    """The device model of the configured target as its record has it; a CPU's for the threads of the program."""
    target = settings.target
    entry = settings.registry.get(DeviceEntry, f"{target.backend}:{target.device}", f"device of {target.backend}")
    device: DeviceModel = settings.registry.code(entry, entry.model)()
    return device.with_units(settings.threads) if device.kind == "cpu" else device


def recipes_of(settings: Settings) -> dict[str, Recipe]:
    """The recipes registered for the target's backend, by name."""
    found: dict[str, Recipe] = {}
    for entry in settings.registry.records(RecipeEntry).values():
        if entry.backend == settings.target.backend:
            recipe = settings.registry.resolve(entry, entry.recipe)
            if not isinstance(recipe, Recipe):
                recipe = settings.registry.guarded(entry, recipe)()
            found[entry.name] = _guarded(settings.registry, entry, recipe)
    return found


def _guarded(registry: Registry, entry: RecipeEntry, recipe: Recipe) -> Recipe:
    """The recipe, so that an exception in what it finds or packs names its plugin."""
    if registry.provider(entry).built_in:
        return recipe

    def match(subject: Any, device: DeviceModel) -> Match | None:
        seen = recipe.match(subject, device)
        if seen is None:
            return None
        packings, slices = (registry.guarded(entry, x) for x in (seen.packings, seen.slices))
        return attrs.evolve(seen, packings=packings, slices=slices)

    return attrs.evolve(recipe, match=registry.guarded(entry, match))


def rules_of(settings: Settings) -> Table:
    """The legalisation rules: the built-in ones and those of plugins.

    Raises:
        PluginError: a plugin gives a rule for an operator and opset that has one.
    """
    registry = settings.registry
    table = builtin_table()
    for record in registry.records(Legalization).values():
        name = f"{record.domain}.{record.op_type}" if record.domain else record.op_type
        known = table.find(record.domain, record.op_type, record.since)
        if known is not None and known.since == record.since:
            raise PluginError(
                f"Plugin {registry.provider(record)} registers a legalisation of {name} since opset {record.since}, "
                "which has one.",
                "Let the plugin register its own operator, or disable it in plugins.disabled of the configuration.",
            )
        function = registry.resolve(record, record.rule)
        table = table.extended([Rule(name, function, record.since, partial(registry.fault, record))])
    return table


def plan_model(
    model: Any, settings: Settings, shapes: Mapping[str, Shape] | None = None, clock: Clock | None = None
) -> Plan:
    """Loads a model and plans it. Arguments and errors as for `load_module`."""
    clock = clock or Clock()
    return plan_module(load_module(model, settings, shapes, clock), settings, clock)


def load_module(
    model: Any,
    settings: Settings,
    shapes: Mapping[str, Shape] | None = None,
    clock: Clock | None = None,
    bind: Mapping[str, Any] | None = None,
) -> Module:
    """Loads and legalises a model.

    Args:
        model: path, bytes, ModelProto, or what `frontend.source.read` made of one; or a module of the tile IR, or the
            path of its text.
        shapes: shapes of inputs, and sizes of named dimensions, where the model leaves them open.
        bind: inputs that are fixed to arrays.

    Raises:
        InputError: the model or the configuration cannot be used.
    """
    clock = clock or Clock()
    table = rules_of(settings)

    def read(_: None) -> Module:
        if isinstance(model, Module) or is_text(model):
            return given_module(model, shapes or {}, bind or {})
        return import_model(model, shapes or {}, bind or {}, table)

    with clock.stage("import"):
        module = _between("import", settings, read, None)
    with clock.stage("legalize"):
        return _between("legalize", settings, lambda nodes: legalize(nodes, table), module)


def _check_members(program: Program, recipes: Mapping[str, Recipe]) -> None:
    bodies = {f"launch {x.name}": x.body for x in launches(program.steps) if x.only_task is None}
    bodies |= {f"procedure {name}": x.parts for name, x in program.procedures.items()}
    for where, parts in bodies.items():
        for task in tasks_of(parts):
            recipe = recipes[program.kernels[task.kernel].choice.recipe]
            if not recipe.embeddable:
                raise InternalError(
                    f"{where} runs {task.kernel} among others, and {recipe.name} is not embeddable: "
                    "its kernels must be launched alone."
                )


def _between(stage: str, settings: Settings, run: Callable[[Any], _T], ir: Any) -> _T:
    """A stage without a session: its passes get the settings as their context."""
    passes = settings.runnable_passes()
    for change in passes.get(f"before.{stage}", ()):
        ir = change(ir, settings)
    result = run(ir)
    for change in passes.get(f"after.{stage}", ()):
        result = change(result, settings)
    return result


def plan_module(module: Module, settings: Settings, clock: Clock | None = None) -> Plan:
    """Plans a legalised module."""
    clock = clock or Clock()
    device = device_of(settings)
    if device.kind == "cpu":
        device = device.holding(sum(x.data.nbytes for x in module.constants.values()))
    recipes = list(recipes_of(settings).values())
    services = {slot: settings.service(slot) for slot in settings.slots}
    session = Session(
        str(settings.target),
        device,
        recipes,
        services,
        frozenset(module.constants),
        settings.runnable_passes(),
        module.symbols,
    )
    session.trials = CachedTrials(settings, device) if settings.keep_trials else None
    session.verify_stages = settings.config.verify.level == "every-stage"
    if session.verify_stages:
        with clock.stage("verify"):
            verify_module(module)
    with clock.stage("plan"):
        program: Program = session.service("planner")(module, session)
    if settings.config.verify.level != "off":
        with clock.stage("verify"):
            verify_program(program, device)
    return Plan(program, session.record.decisions, clock.seconds)


def build_program(program: Program, settings: Settings, workdir: Path) -> BuildOutput:
    """Generates and compiles code for a program.

    Raises:
        InputError: code can only be planned for the device, not generated.
        InternalError: a kernel is a member of a persistent launch, and its recipe says that it cannot be.
    """
    device = device_of(settings)
    if device.plan_only:
        raise InputError(
            f"No code can be generated for {settings.target}: {device.plan_only}.", "Choose another target."
        )
    registry = settings.registry
    backend = registry.get(Backend, settings.target.backend)
    used = {kernel.choice.recipe for kernel in program.kernels.values()}
    entries = {name: registry.get(RecipeEntry, name) for name in sorted(used)}
    emitters: dict[str, Callable[..., Any]] = {
        name: registry.code(entry, entry.emitter) for name, entry in entries.items()
    }
    builder = registry.code(backend, backend.builder)

    def build(program: Program) -> BuildOutput:
        _check_members(program, recipes_of(settings))
        output: BuildOutput = builder(program, target=str(settings.target), emitters=emitters, workdir=workdir)
        return output

    with Clock().stage("build"):
        return _between("build", settings, build, program)
