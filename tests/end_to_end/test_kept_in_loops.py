"""Weights that units keep over the trips of a loop, planned for a GPU and run task by task and on the emulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from benchmarks.control_flow.cells import Cell
from benchmarks.control_flow.flow import Given
from benchmarks.control_flow.models import MODELS
from benchmarks.control_flow.prepare import outputs
from tilewright.compiler import device_of, plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.loading import load_config
from tilewright.errors import VerifyError
from tilewright.frontend import load
from tilewright.interpret.task import run_tasks
from tilewright.ir.lengths import delivered
from tilewright.ir.module import Module
from tilewright.ir.program import Fetch, GridControl, Launch, Phase, Program, Task, launches
from tilewright.ir.verify import verify_program
from tilewright.ir.verify.tree import controls_of, leaves
from tilewright.plugins.manager import Registry

ALL = {"control_rewrite": "grinder", "connect": "welder", "propose": "roller", "schedule": "rammer"}


def settings(slots: Mapping[str, str]) -> Settings:
    given: dict[str, Any] = {"target": "cuda:h200", "slots": {**slots, "control_place": "grinder"}}
    return bind(load_config({**given, "options": {"grinder": {"level": "grid"}}}), Registry())


def small(name: str) -> tuple[Given, Module, list[Any]]:
    given = Cell(name, 0, 1, small=True).given()
    module = given.model if isinstance(given.model, Module) else load(given.model)
    return given, module, [np.asarray(given.feeds[x]) for x in module.input_names]


def near(program: Program) -> list[Task]:
    found = (x for launch in launches(program.steps) for x in leaves(launch.body))
    return [x for x in found if isinstance(x, Task) and x.near is not None]


def agree(module: Module, given: Given, found: list[Any]) -> None:
    for a, b in zip(delivered(module.output_names, module.lengths, found), outputs(given), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "slots"),
    [("lstm", {}), ("nasrnn", {}), ("seq2seq", {}), ("lstm", ALL), ("nasrnn", ALL)],
    ids=["lstm", "nasrnn", "seq2seq", "lstm-all", "nasrnn-all"],
)
def test_a_recurrence_fetches_its_weights_once(name: str, slots: Mapping[str, str]) -> None:
    """In no loop; and what it computes is right in any order of units, and on the emulated device."""
    given, module, feeds = small(name)
    chosen = settings(slots)
    program = plan_module(module, chosen).program
    verify_program(program, device_of(chosen))
    assert near(program)
    for launch in launches(program.steps):
        for control in controls_of(launch.body):
            inside = leaves((*control.body, *control.orelse)) if isinstance(control, GridControl) else ()
            assert not any(isinstance(x, Fetch) for x in inside)
    agree(module, given, list(run_tasks(program, tuple(feeds), 0)))
    agree(module, given, list(emulate(program, chosen, feeds, seeds=(0, 1))))


def test_a_step_of_stacked_layers_is_one_phase() -> None:
    """Layers side by side, weights near, copies and numbers beside the work of the next step."""
    module = load(MODELS["lstm"].build(layers=3, steps=8, hidden=256).model)
    program = plan_module(module, settings(ALL)).program
    loops = [x for launch in launches(program.steps) for x in controls_of(launch.body) if isinstance(x, GridControl)]
    (loop,) = loops
    assert len(loop.body) == 2  # two steps, for states have two places by turns
    assert all(isinstance(x, Phase) for x in loop.body)


def test_what_is_not_fetched_is_refused() -> None:
    """Without one of the fetches in front of the loop, a task would read what never came."""
    _, module, _ = small("lstm")
    chosen = settings(ALL)
    program = plan_module(module, chosen).program
    (launch,) = (x for x in program.body if isinstance(x, Launch) and x.envelope.own_bytes)
    first = launch.body[0]
    assert isinstance(first, Phase)
    at = next(i for i, lane in enumerate(first.lanes) if any(isinstance(x, Fetch) for x in lane.items))
    lane = first.lanes[at]
    gone = next(i for i, x in enumerate(lane.items) if isinstance(x, Fetch))
    fewer = attrs.evolve(lane, items=(*lane.items[:gone], *lane.items[gone + 1 :]))
    lanes = (*first.lanes[:at], fewer, *first.lanes[at + 1 :])
    broken = attrs.evolve(launch, body=(Phase(lanes), *launch.body[1:]))
    body = tuple(broken if x is launch else x for x in program.body)
    with pytest.raises(VerifyError, match="reads near"):
        verify_program(attrs.evolve(program, body=body), device_of(chosen))
