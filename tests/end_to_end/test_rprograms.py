"""Models whose kernels Rammer has merged into persistent launches, on the CPU and on the emulator of a GPU."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import tilewright
from backends.tests.cuda_on_cpu.emulator import emulate
from benchmarks.models import graphs
from tests.onnx_runtime import expected
from tilewright.compare import compare_outputs
from tilewright.compiler import device_of, plan_model
from tilewright.config import load_config
from tilewright.config.binding import Settings, bind
from tilewright.errors import InputError
from tilewright.ir.program import Launch, Program, launches
from tilewright.ir.verify import verify_program
from tilewright.plugins.manager import Registry
from tilewright.testing.cases import Case
from tilewright.testing.models import BUILDERS

POLICIES = ("list", "waves")
SMALL = ("inception_block", "lstm", "moe_block", "nasnet_cifar", "resnext29_paths", "seq2seq", "shufflenet_v2")
WIDE = ("lstm", "moe_block", "nasnet_cifar", "seq2seq")
QUICK = ("lstm", "inception_block")


def cases() -> list[Any]:
    names = sorted({*BUILDERS, *SMALL})
    return [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow(every=4)) for x in names]


def wave_cases() -> list[Any]:
    """Models in which something stands side by side, also where Welder has joined what it can."""
    found = itertools.product(sorted(WIDE), ("rocm:gfx1100", "rocm:gfx90a", "cuda:h200"))
    slow = {"lstm": pytest.mark.slow, "moe_block": pytest.mark.slow}
    quick = ("lstm", "rocm:gfx1100")
    return [pytest.param(*x, marks=() if x == quick else slow.get(x[0], pytest.mark.full)) for x in found]


def case(name: str) -> Case:
    return BUILDERS[name]() if name in BUILDERS else graphs.case(name, small=True)


def config(target: str, policy: str) -> dict[str, Any]:
    """Everything that can be merged is, whatever it costs."""
    slots = {"schedule": "rammer", "connect": "welder", "propose": "roller"}
    return {"target": target, "slots": slots, "options": {"rammer": {"policy": policy, "gain": -1e9}}}


def settings(target: str, policy: str) -> Settings:
    return bind(load_config(config(target, policy)), Registry())


def agree(program: Program, found: list[Any], one: Case) -> None:
    for agreement in compare_outputs(program.output_names, found, expected(one.model, one.feeds)):
        assert agreement.ok, agreement


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", cases())
def test_a_model_on_the_cpu(name: str, policy: str) -> None:
    one = case(name)
    given = config("cpu", policy)
    program = plan_model(one.model, bind(load_config(given), Registry(), threads=2)).program
    assert any(x.envelope.cooperative for x in launches(program.steps))
    with tilewright.compile(one.model, config=given, threads=2) as compiled:
        for _ in range(20):  # the order in which units meet is another each time
            agree(program, compiled.run(None, dict(one.feeds)), one)


@pytest.mark.parametrize("name", cases())
def test_a_model_on_an_emulated_gpu(name: str) -> None:
    one = case(name)
    chosen = settings("cuda:h200", "list")
    program = plan_model(one.model, chosen).program
    assert any(x.envelope.cooperative for x in launches(program.steps))
    agree(program, emulate(program, chosen, [one.feeds[x] for x in program.input_names]), one)


def merged(program: Program) -> list[Launch]:
    """The launches of more than one kernel."""
    return [x for x in launches(program.steps) if x.only_task is None]


@pytest.mark.parametrize(("name", "target"), wave_cases())
def test_waves_as_launches_on_an_emulated_gpu(name: str, target: str) -> None:
    """On AMD GPUs whatever the policy says; units wait for nothing, and no more than the launches' order is needed."""
    one = case(name)
    chosen = settings(target, "launches" if target.startswith("cuda") else "list")
    program = plan_model(one.model, chosen).program
    verify_program(program, device_of(chosen))
    found = launches(program.steps)
    assert merged(program)
    assert not any(x.envelope.cooperative or x.events for x in found)
    agree(program, emulate(program, chosen, [one.feeds[x] for x in program.input_names]), one)


@pytest.mark.slow
def test_waves_as_launches_on_the_cpu() -> None:
    one, given = case("lstm"), config("cpu", "launches")
    program = plan_model(one.model, bind(load_config(given), Registry(), threads=2)).program
    assert merged(program)
    assert not any(x.envelope.cooperative for x in launches(program.steps))
    with tilewright.compile(one.model, config=given, threads=2) as compiled:
        agree(program, compiled.run(None, dict(one.feeds)), one)


def test_fewer_threads_than_units_that_wait_are_refused(tmp_path: Any) -> None:
    one = case("gpt")
    path = tmp_path / "gpt.tw"
    with tilewright.compile(one.model, config=config("cpu", "list"), threads=2) as compiled:
        compiled.save(path)
    with pytest.raises(InputError, match=r"2 units wait for each other, and it may use 1 of 2 threads"):
        tilewright.load(path, threads=1)
    with tilewright.load(path, threads=3) as loaded:
        found = loaded.run(None, dict(one.feeds))
    wanted = expected(one.model, one.feeds)
    assert all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, wanted, strict=True))


def test_nothing_is_merged_where_that_is_not_predicted_to_pay() -> None:
    """A launch that costs nothing leaves nothing to save."""
    one = case("lstm")
    given = {**config("cpu", "list"), "options": {"rammer": {"gain": 1.0}}}
    program = plan_model(one.model, bind(load_config(given), Registry(), threads=2)).program
    assert not any(x.envelope.cooperative for x in launches(program.steps))
