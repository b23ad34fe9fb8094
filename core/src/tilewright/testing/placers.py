"""The conformance kit for placers: what a value of the slot `control_place` has to hold, ours and third parties'.

A placer's law: its program keeps the laws of the fourth form on the device; every loop, branch and call has an entry in
the decision record that names its level; asked again, the placer answers the same; and whatever order its barriers and
waits leave open, the program computes bit for bit what the default placer's does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from tilewright.compiler import plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.frontend import load
from tilewright.interpret.task import run_tasks
from tilewright.ir.graphs import graph_control
from tilewright.ir.module import Module
from tilewright.ir.ops import Call, If, Loop, Region, bodies
from tilewright.ir.program import GridControl, Program, every_call
from tilewright.ir.verify.tree import controls_of
from tilewright.plugins.manager import Registry
from tilewright.rewrites.calls import reached, separate_entry, unique_names
from tilewright.testing.control import SHAPE, control_case
from tilewright.testing.laws import Broken, changed, refused
from tilewright.testing.recursion import recursion_case

SEEDS = range(6)
"""Of the random models that a placer is asked about by default."""
WIDE = (24, 130)
"""Shape of tensors that kernels share out among several units."""


@attrs.frozen
class Given:
    """A module with control flow, and its inputs in order."""

    name: str
    module: Module
    feeds: tuple[Any, ...]


@attrs.frozen
class Report:
    """What a placer was asked.

    Args:
        models: how many.
        levels: how many loops, branches and calls the record has at each level.
        graph: loops and branches that the device decides in a graph.
        grid: those that units of a launch take together.
        block: those that one unit takes.
        calls: that launches make.
    """

    placer: str
    models: int
    levels: Mapping[str, int]
    graph: int
    grid: int
    block: int
    calls: int
    broken: tuple[Broken, ...]


def given_cases(seeds: Sequence[int] = SEEDS) -> list[Given]:
    """Random models with loops and branches, every other one on tensors of several tasks, and recursive modules."""
    found = []
    for seed in seeds:
        case = control_case(seed, shape=WIDE if seed % 2 else SHAPE)
        module = load(case.model)
        feeds = tuple(np.asarray(case.feeds[name]) for name in module.input_names)
        found.append(Given(case.name, module, feeds))
        recursive = recursion_case(seed)
        found.append(Given(f"recursion {seed}", recursive.module, recursive.feeds))
    return found


def check_placer(
    name: str,
    target: str = "cuda:h200",
    cases: Sequence[Given] | None = None,
    config: Mapping[str, Any] | None = None,
    seeds: int = 2,
) -> Report:
    """Plans models with a placer, and runs the programs task by task in random orders on poisoned memory.

    Args:
        name: the registered value of the slot `control_place`.
        target: what is planned for; no device is needed.
        cases: by default `given_cases()`.
        config: the rest of the configuration, such as the placer's options.
        seeds: orders that each program is run in; 0 asks and verifies only.
    """
    given = {"target": target, "verify": {"level": "off"}, "slots": {}, **(config or {})}

    def settings(placer: str) -> Settings:
        slots = {**given["slots"], "control_place": placer}
        return bind(load_config({**given, "slots": slots}), Registry(), threads=2)

    own, default = settings(name), settings("host")
    levels: dict[str, int] = {}
    broken: list[Broken] = []
    graph = grid = block = called = 0
    cases = given_cases() if cases is None else cases
    for case in cases:
        plan = plan_module(case.module, own)
        recorded = {x.subject: x.chosen for x in plan.decisions if x.slot == "control_place"}
        for found in recorded.values():
            level = found.get("level", "") if isinstance(found, Mapping) else ""
            levels[level] = levels.get(level, 0) + 1
        graph += sum(1 for _ in graph_control(plan.program.steps))
        called += len(every_call(plan.program.parts))
        for control in controls_of(plan.program.parts):
            grid, block = grid + isinstance(control, GridControl), block + (not isinstance(control, GridControl))
        problems = [*refused(plan, own), *_unrecorded(case.module, recorded, given["slots"])]
        problems += changed(plan, case.module, own)
        if not problems and seeds:
            problems += _wrong(plan.program, plan_module(case.module, default).program, case, seeds)
        broken += [Broken(case.name, x) for x in problems]
    return Report(name, len(cases), levels, graph, grid, block, called, tuple(broken))


def _unrecorded(module: Module, recorded: Mapping[str, Any], slots: Mapping[str, str]) -> Iterator[str]:
    for name, found in recorded.items():
        if not isinstance(found, Mapping) or "level" not in found:
            yield f"the entry of {name} in the decision record names no level: {found}"
    if slots.get("control_rewrite", "identity") != "identity":
        return  # what is left to place, only the rewriter knows
    for function in unique_names(separate_entry(reached(module))).functions.values():
        for name in _control(function.body):
            if name not in recorded:
                yield f"{name} has no entry in the decision record"


def _control(region: Region) -> Iterator[str]:
    for op in region.ops:
        if isinstance(op, Loop | If | Call):
            yield op.name
        for body in bodies(op):
            yield from _control(body)


def _wrong(program: Program, default: Program, case: Given, seeds: int) -> Iterator[str]:
    expected = run_tasks(default, case.feeds, 0)
    for seed in range(seeds):
        for value, ours, theirs in zip(program.outputs, run_tasks(program, case.feeds, seed), expected, strict=True):
            if ours.tobytes() != theirs.tobytes():
                yield f"output {value.name} is not what the default placer's program gives, in order {seed}"
