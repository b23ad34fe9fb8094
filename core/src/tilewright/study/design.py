"""From a study to its arms: configurations that differ in the levels of named factors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from tilewright.config import Config, ConfigError, load_config
from tilewright.config.loading import merge
from tilewright.config.schema import Study
from tilewright.plugins.records import SLOTS

ON = "on"
"""The level of a factor at which the study's own configuration stands unchanged."""


@frozen
class Arm:
    """One configuration of a study.

    Args:
        name: unique in the study, from the levels and swept values.
        levels: the level of every factor.
        swept: the value of every swept key.
        mapping: the whole configuration, without the study.
    """

    name: str
    levels: Mapping[str, str]
    swept: Mapping[str, Any]
    mapping: Mapping[str, Any]


def arms(base: Mapping[str, Any], study: Study) -> list[Arm]:
    """The arms of a study; the first has every factor on, or every factor off for `one-at-a-time`.

    Args:
        base: the mapping of the configuration that holds the study (`load_mapping`).
        study: its study.

    Raises:
        ConfigError: a factor redefines `on`, has no other level, or an arm is no valid configuration.
    """
    for factor, levels in study.factors.items():
        if ON in levels:
            raise ConfigError(
                f"study.factors.{factor} defines the level {ON!r}, which is the configuration itself.",
                "Give the other levels only, such as off.",
            )
        if not levels:
            raise ConfigError(f"study.factors.{factor} has no level besides {ON!r}.", "Give one, such as off.")
    plain = {key: value for key, value in base.items() if key != "study"}
    found = []
    for chosen in _DESIGNS[study.design](study):
        for swept in _sweeps(study):
            mapping: Mapping[str, Any] = plain
            for factor, level in chosen.items():
                if level != ON:
                    mapping = _changed(mapping, study.factors[factor][level])
            mapping = _changed(mapping, swept)
            name = _name(chosen, swept)
            _check(name, mapping)
            found.append(Arm(name, chosen, swept, mapping))
    return found


def _power_set(study: Study) -> Iterator[dict[str, str]]:
    for levels in itertools.product(*([ON, *levels] for levels in study.factors.values())):
        yield dict(zip(study.factors, levels, strict=True))


def _leave_one_out(study: Study) -> Iterator[dict[str, str]]:
    everything = dict.fromkeys(study.factors, ON)
    yield everything
    for factor, levels in study.factors.items():
        for level in levels:
            yield {**everything, factor: level}


def _one_at_a_time(study: Study) -> Iterator[dict[str, str]]:
    nothing = {factor: next(iter(levels)) for factor, levels in study.factors.items()}
    yield nothing
    for factor in study.factors:
        yield {**nothing, factor: ON}


_DESIGNS = {
    "power-set": _power_set,
    "leave-one-out": _leave_one_out,
    "one-at-a-time": _one_at_a_time,
}


def _sweeps(study: Study) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*study.sweep.values()):
        yield dict(zip(study.sweep, values, strict=True))


def _changed(mapping: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(mapping)
    for key, value in changes.items():
        change: Any = value
        for part in reversed(("slots", key) if key in SLOTS else tuple(key.split("."))):
            change = {part: change}
        result = merge(result, change)
    return result


def _name(levels: Mapping[str, str], swept: Mapping[str, Any]) -> str:
    parts = [f"{factor}={level}" for factor, level in levels.items()]
    parts += [f"{key.rpartition('.')[2]}={value}" for key, value in swept.items()]
    return " ".join(parts) or "all"


def _check(name: str, mapping: Mapping[str, Any]) -> Config:
    try:
        return load_config(mapping)
    except ConfigError as error:
        raise ConfigError(
            f"The study's arm {name!r} is no valid configuration: {error.message}", error.remedy
        ) from error
