"""The configuration: which value each slot has, which passes run where, and the options of the plugins.

These classes hold plain values and names only. A name is looked up among the records of installed plugins by
`tilewright.config.binding`; nothing here can name code to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import Attribute, field, frozen
from attrs.validators import ge, gt, in_

from tilewright.plugins.errors import unknown_name
from tilewright.plugins.records import POINTS, SLOTS

SCHEMA = 1
"""Version of the configuration's form."""

FALLBACKS = ("error", "reference")

Scalar = bool | int | float | str


def _known_keys(what: str, known: tuple[str, ...]) -> Any:
    def check(instance: object, attribute: Attribute[Any], value: Mapping[str, object]) -> None:
        for key in value:
            if key not in known:
                raise unknown_name(what, key, known)

    return check


@frozen
class Passes:
    """Third parties' passes: for each side of each stage, the names of the passes in running order."""

    before: Mapping[str, tuple[str, ...]] = field(factory=dict)
    after: Mapping[str, tuple[str, ...]] = field(factory=dict)

    @before.validator
    @after.validator
    def _check(self, attribute: Attribute[Any], value: Mapping[str, object]) -> None:
        stages = [point.partition(".")[2] for point in POINTS if point.startswith(f"{attribute.name}.")]
        for stage in value:
            if stage not in stages:
                raise unknown_name("stage", stage, stages)

    def at(self, point: str) -> tuple[str, ...]:
        """The names at a point such as `after.connect`."""
        side, _, stage = point.partition(".")
        table = self.before if side == "before" else self.after
        return table.get(stage, ())


@frozen
class Verify:
    """When the verifiers of the IR run: after every stage, once on the final program, or never."""

    level: str = field(default="final", validator=in_(("every-stage", "final", "off")))


@frozen
class Plugins:
    """Which installed plugins are left alone: `disabled` ones are never imported."""

    disabled: tuple[str, ...] = ()


@frozen
class Study:
    """An ablation: configurations ("arms") that differ from this file's in named factors.

    Args:
        design: `power-set`: every combination of the factors' levels. `leave-one-out`: everything on, and
            each factor off alone. `one-at-a-time`: everything off, and each factor on alone.
        factors: factor → level → changes. The level `on` is this file's own configuration and is not written.
            A change sets a slot (`connect = "singletons"`) or a dotted key (`"options.roller.topk" = 5`).
        sweep: dotted key → values; each arm is run with every combination of them.
        models: what to compile: paths, relative to this file, or `light:NAME`.
        rounds: interleaved rounds of measurement of each arm.
        seconds: least time that one arm is run in one round.
        time_limit: seconds after which the compilation, the check or one round of an arm is ended.
        memory_limit: GiB that one arm's process may use.
    """

    design: str = field(default="power-set", validator=in_(("power-set", "leave-one-out", "one-at-a-time")))
    factors: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(factory=dict)
    sweep: Mapping[str, tuple[Any, ...]] = field(factory=dict)
    models: tuple[str, ...] = ()
    rounds: int = field(default=5, validator=ge(1))
    seconds: float = field(default=0.5, validator=gt(0))
    time_limit: float = field(default=600.0, validator=gt(0))
    memory_limit: float = field(default=16.0, validator=gt(0))


@frozen
class Config:
    """A whole configuration. Every part has a default, so `Config()` is a valid one.

    Args:
        schema: version of the form, always 1.
        target: a target string such as `cpu`, `cpu:znver4`, `cuda:h200`.
        slots: slot → name of its value; a slot left out keeps its default.
        passes: third parties' passes.
        options: the options of the plugins, by the name they registered.
        verify: when the verifiers run.
        fallback: what becomes of nodes that cannot be compiled: `error`, or `reference` for ONNX's reference evaluator.
        plugins: which plugins are left alone.
        study: the study that this file describes, if it is one.
    """

    schema: int = field(default=SCHEMA, validator=in_((SCHEMA,)))
    target: str = "cpu"
    slots: Mapping[str, str] = field(factory=dict, validator=_known_keys("slot", tuple(SLOTS)))
    passes: Passes = Passes()
    options: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    verify: Verify = Verify()
    fallback: str = field(default="error", validator=in_(FALLBACKS))
    plugins: Plugins = Plugins()
    study: Study | None = None
