"""The conformance kit for schedulers: what a value of the slot `schedule` has to hold, for ours and for third parties'.

A scheduler's law: its launches run every task of every kernel, in an order in which each value is written before it is
read and overwritten after; units that wait for each other fit on the device at once; every launch has an entry in the
decision record; asked again, the scheduler answers the same; and whatever order its waits leave open, the program
computes the right thing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from tilewright.compiler import Plan, plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.frontend import load
from tilewright.interpret.task import run_tasks
from tilewright.interpret.tensor import interpret
from tilewright.ir.program import launches
from tilewright.plugins.manager import Registry
from tilewright.testing.cases import Case
from tilewright.testing.laws import Broken, changed, refused
from tilewright.testing.models import BUILDERS

_TOLERANCE = 1e-4
"""Largest allowed ‖a − b‖ / ‖b‖ between two float32 interpretations that differ in the order of their operators."""


@attrs.frozen
class Report:
    """What a scheduler was asked: models, launches it made, those whose units wait for each other, and what broke."""

    scheduler: str
    models: int
    launches: int
    together: int
    broken: tuple[Broken, ...]


def check_scheduler(
    name: str,
    target: str = "cuda:h200",
    models: Sequence[Case] | None = None,
    config: Mapping[str, Any] | None = None,
    seeds: int = 2,
) -> Report:
    """Plans models with a scheduler, and runs the programs task by task in random orders on poisoned memory.

    Args:
        name: the registered value of the slot `schedule`.
        target: what is planned for; no device is needed.
        models: by default the blocks of `tilewright.testing.models`.
        config: the rest of the configuration, such as the scheduler's options.
        seeds: orders that each program is run in; 0 asks and verifies only.
    """
    given = {"target": target, "verify": {"level": "off"}, "slots": {}, **(config or {})}
    settings = bind(load_config({**given, "slots": {**given["slots"], "schedule": name}}), Registry())
    made = together = 0
    broken: list[Broken] = []
    cases = [build() for build in BUILDERS.values()] if models is None else models
    for case in cases:
        module = load(case.model)
        plan = plan_module(module, settings)
        found = launches(plan.program.steps)
        made += len(found)
        together += sum(x.envelope.cooperative for x in found)
        problems = list(_problems(plan, settings))
        problems += changed(plan, module, settings)
        if not problems and seeds:
            problems += _wrong(plan, case, seeds)
        broken += [Broken(case.name, x) for x in problems]
    return Report(name, len(cases), made, together, tuple(broken))


def _problems(plan: Plan, settings: Settings) -> Iterator[str]:
    yield from refused(plan, settings)
    recorded = {x.subject for x in plan.decisions if x.slot == "schedule"}
    for launch in launches(plan.program.steps):
        if launch.name not in recorded:
            yield f"launch {launch.name} has no entry in the decision record"


def _wrong(plan: Plan, case: Case, seeds: int) -> Iterator[str]:
    feeds = [case.feeds[x] for x in plan.program.input_names]
    expected = interpret(load(case.model), feeds)
    for seed in range(seeds):
        found = run_tasks(plan.program, feeds, seed)
        for value, ours, theirs in zip(plan.program.outputs, found, expected, strict=True):
            a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
            error = np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30)
            if not error <= _TOLERANCE:
                yield f"output {value.name} is off by {error:.1e} in order {seed}"
