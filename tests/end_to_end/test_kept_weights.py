"""Weights that stay on chip over the steps of a recurrence, planned by all techniques and run on the emulator."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
import numpy as np
import pytest

from backends.tests.cuda_on_cpu.emulator import emulate
from benchmarks.models.graphs import MODELS
from tests.onnx_runtime import expected
from tilewright.compare import compare_outputs
from tilewright.compiler import device_of, plan_model
from tilewright.config import load_config
from tilewright.config.binding import Settings, bind
from tilewright.errors import VerifyError
from tilewright.ir.program import Fetch, Item, Launch, Phase, Program, Task, Wait, launches
from tilewright.ir.verify import verify_program
from tilewright.ir.verify.tree import leaves
from tilewright.plugins.manager import Registry
from tilewright.testing.cases import Case
from tilewright.testing.schedulers import check_scheduler

Planned = tuple[Case, Settings, Program]
SLOTS = {"schedule": "rammer", "connect": "welder", "propose": "roller"}


def settings(keep: bool = True, prefetch: bool = False) -> Settings:
    options = {"policy": "list", "gain": -1e9, "keep": keep, "prefetch": prefetch}
    given = {"target": "cuda:h200", "slots": SLOTS, "options": {"rammer": options}}
    return bind(load_config(given), Registry())


def lstm() -> Case:
    return MODELS["lstm"].build(seed=0, batch=1, steps=6, layers=2, hidden=32)


@pytest.fixture(scope="module")
def planned() -> Planned:
    """An LSTM, planned once for all tests."""
    one, chosen = lstm(), settings()
    return one, chosen, plan_model(one.model, chosen).program


def kept(program: Program) -> list[Item]:
    """What fetches, and what reads what was fetched."""
    found = (x for launch in launches(program.steps) for x in leaves(launch.body))
    return [x for x in found if isinstance(x, Fetch) or (isinstance(x, Task) and x.near is not None)]


def test_an_unrolled_lstm_keeps_its_weights(planned: Planned) -> None:
    """Every weight is fetched once at most, each task reads near what it reads near for the first time, too."""
    one, chosen, program = planned
    verify_program(program, device_of(chosen))
    items = kept(program)
    fetched = Counter((x.source, x.first, x.bytes) for x in items if isinstance(x, Fetch))
    assert fetched
    assert set(fetched.values()) == {1}
    near = Counter((x.args[1], x.first) for x in items if isinstance(x, Task))
    assert min(near.values()) > 2
    found = emulate(program, chosen, [one.feeds[x] for x in program.input_names])
    for agreement in compare_outputs(program.output_names, found, expected(one.model, one.feeds)):
        assert agreement.ok, agreement


def test_without_the_option_nothing_is_kept() -> None:
    program = plan_model(lstm().model, settings(keep=False)).program
    assert not kept(program)
    assert all(x.envelope.own_bytes == 0 for x in launches(program.steps))


@pytest.mark.parametrize("keep", [False, True])
def test_weights_are_fetched_ahead_of_waits(keep: bool) -> None:
    """What is not kept is fetched for each task that waits, and what it computes is right."""
    one, chosen = lstm(), settings(keep=keep, prefetch=True)
    program = plan_model(one.model, chosen).program
    verify_program(program, device_of(chosen))
    fetched = Counter((x.source, x.first, x.bytes) for x in kept(program) if isinstance(x, Fetch))
    assert max(fetched.values()) > 1 or keep
    found = emulate(program, chosen, [one.feeds[x] for x in program.input_names])
    for agreement in compare_outputs(program.output_names, found, expected(one.model, one.feeds)):
        assert agreement.ok, agreement


def test_units_fetch_while_they_wait(planned: Planned) -> None:
    """Of every run of fetches the next item but fetches is a wait, except where the unit has nothing to wait for."""
    _, _, program = planned
    behind: Counter[type] = Counter()
    for launch in launches(program.steps):
        for phase in (x for x in launch.body if isinstance(x, Phase)):
            for lane in phase.lanes:
                for item, after in zip(lane.items, lane.items[1:], strict=False):
                    if isinstance(item, Fetch) and not isinstance(after, Fetch):
                        behind[type(after)] += 1
    assert set(behind) <= {Wait, Task}
    assert behind[Wait] > behind[Task]


def changed(program: Program, wrong: Any) -> Program:
    """The program with some items of its merged launch replaced, or left out where `wrong` gives None."""
    body = []
    for launch in program.body:
        assert isinstance(launch, Launch)
        parts = []
        for part in launch.body:
            assert isinstance(part, Phase)
            lanes = [attrs.evolve(x, items=tuple(y for y in map(wrong, x.items) if y is not None)) for x in part.lanes]
            parts.append(Phase(tuple(lanes)))
        body.append(attrs.evolve(launch, body=tuple(parts)))
    return attrs.evolve(program, body=tuple(body))


def moved(task: Task) -> Task:
    """The task with its slices 16 bytes further on."""
    assert task.near is not None
    return attrs.evolve(task, near=attrs.evolve(task.near, offset=task.near.offset + 16))


MUTATIONS: dict[str, Any] = {
    "nothing fetched": lambda x: None if isinstance(x, Fetch) else x,
    "fetched elsewhere": lambda x: attrs.evolve(x, offset=0) if isinstance(x, Fetch) else x,
    "other bytes": lambda x: attrs.evolve(x, first=x.first + 128) if isinstance(x, Fetch) else x,
    "read elsewhere": lambda x: moved(x) if isinstance(x, Task) and x.near is not None else x,
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_plan_that_reads_something_else_is_refused(name: str, planned: Planned) -> None:
    _, _, program = planned
    with pytest.raises(VerifyError, match="fetched"):
        verify_program(changed(program, MUTATIONS[name]))


def test_wrong_bytes_in_the_units_memory_give_wrong_results(planned: Planned) -> None:
    one, chosen, program = planned
    first = {x.source: x.first for x in kept(program) if isinstance(x, Fetch)}
    wrong = changed(program, lambda x: attrs.evolve(x, first=first[x.source]) if isinstance(x, Fetch) else x)
    (found,) = emulate(wrong, chosen, [one.feeds[x] for x in program.input_names])
    (right,) = expected(one.model, one.feeds)
    assert np.abs(found - right).max() > 1e-3


def test_the_kit_for_schedulers_passes() -> None:
    slots = {x: y for x, y in SLOTS.items() if x != "schedule"}
    config = {"slots": slots, "options": {"rammer": {"policy": "list", "gain": -1e9}}}
    report = check_scheduler("rammer", models=[lstm()], config=config, seeds=1)
    assert report.together
    assert not report.broken
