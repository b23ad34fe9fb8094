"""Grinder's rewriting of control flow, compiled for this CPU: random models, stacked recurrences, ONNX's node tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

import tilewright
from tilewright.compare import compare_outputs
from tilewright.compiler import plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.schema import Config
from tilewright.frontend import load
from tilewright.interpret.task import run_tasks
from tilewright.ir.lengths import delivered
from tilewright.ir.module import Module
from tilewright.plugins.manager import Registry
from tilewright.runtime.immediate import run
from tilewright.testing.control import control_case
from tilewright.testing.node_cases import cases, run_case
from tilewright.testing.recursion import recursion_case
from tilewright.testing.reference import Reference
from tilewright.testing.stacked import stacked_case

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "unrolled": {"unroll": 1000, "branch": 1.0, "small": 1000},
    "joined": {"unroll": 0, "factor": 3, "branch": 1.0, "wavefront": "always"},
    "branching": {"unroll": 0, "factor": 2, "branch": 0.0, "wavefront": "always"},
}


@cache
def settings(options: str) -> Settings:
    chosen = {"grinder": OPTIONS[options]}
    return bind(Config(target="cpu", slots={"control_rewrite": "grinder"}, options=chosen), Registry())


def compiled(module: Module, inputs: Sequence[Any], options: str) -> list[Any]:
    return run(plan_module(module, settings(options)).program, settings(options), inputs)


def agree(names: Sequence[str], found: Sequence[Any], wanted: Sequence[Any]) -> None:
    for agreement in compare_outputs(list(names), found, wanted):
        assert agreement.ok, agreement


def check(seed: int, options: str) -> None:
    """As tasks on poisoned storage in a random order, and compiled."""
    case = control_case(seed)
    module = load(case.model)
    feeds = [np.asarray(case.feeds[name]) for name in module.input_names]
    wanted = Reference(18).graph(case.model.graph, case.feeds)
    names = [x.name for x in case.model.graph.output]
    program = plan_module(module, settings(options)).program
    cut = partial(delivered, module.output_names, module.lengths)
    agree(names, cut(run_tasks(program, feeds, seed)), wanted)
    agree(names, cut(run(program, settings(options), feeds)), wanted)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("seed", range(5))
def test_a_random_model_with_control_flow_agrees(seed: int, options: str) -> None:
    check(seed, options)


@pytest.mark.full
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("start", range(5, 105, 25))
def test_many_random_models_with_control_flow_agree(start: int, options: str) -> None:
    for seed in range(start, start + 25):
        check(seed, options)


@pytest.mark.parametrize("options", ["default", "joined"])
@pytest.mark.parametrize("seed", range(3))
def test_stacked_recurrences_agree(seed: int, options: str) -> None:
    case = stacked_case(seed, gated=True)
    feeds = {"x": case.feeds["x"]}
    found = compiled(load(case.model), [feeds["x"]], options)
    agree([x.name for x in case.model.graph.output], found, Reference(18).graph(case.model.graph, feeds))


@pytest.mark.parametrize("options", ["default", "unrolled"])
@pytest.mark.parametrize("seed", range(4))
def test_a_random_recursive_module_agrees(seed: int, options: str) -> None:
    case = recursion_case(seed)
    for found, wanted in zip(compiled(case.module, case.feeds, options), case.wanted, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


KINDS = ("If", "Loop", "Scan", "RNN", "GRU", "LSTM")


@pytest.mark.parametrize("options", ["default", "joined"])
def test_node_tests_of_control_flow_get_the_right_answers(options: str) -> None:
    chosen = [x for x in cases() if x.operator in KINDS]
    assert len(chosen) >= 20
    found = [run_case(x, partial(compiled, options=options)) for x in chosen]
    assert [f"{x.name}: {x.detail}" for x in found if x.kind == "wrong"] == []
    assert sum(x.kind in ("native", "specialised") for x in found) >= 15


def test_decisions_name_loops_and_branches_and_say_why() -> None:
    case = stacked_case(0, gated=True)
    decisions = plan_module(load(case.model), settings("joined")).decisions
    own = [x for x in decisions if x.slot == "control_rewrite"]
    assert {"before", "after"} == next(x for x in own if x.subject == "module").chosen.keys()
    assert any("one wavefront" in x.chosen and "side by side" in x.why for x in own if x.subject != "module")


def test_the_public_call_takes_the_slot_by_its_name() -> None:
    case = stacked_case(0)
    config = {"slots": {"control_rewrite": "grinder"}, "options": {"grinder": {"wavefront": "always"}}}
    program = tilewright.compile(case.model, target="cpu", config=config, cache=False)
    feeds = {"x": case.feeds["x"]}
    wanted = Reference(18).graph(case.model.graph, feeds)
    agree([x.name for x in case.model.graph.output], program.run(None, feeds), wanted)
