"""A sample of ONNX's node tests, compiled for this CPU. `test_scoreboard.py` runs all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from tilewright.compiler import plan_module
from tilewright.config.binding import Settings, bind
from tilewright.config.schema import Config
from tilewright.ir.module import Module
from tilewright.plugins.manager import Registry
from tilewright.runtime.immediate import run
from tilewright.testing.node_cases import Case, Outcome, cases, run_case

SAMPLE = 30
"""The default tier takes every 20th case."""

# What is known to compile; a kernel that no recipe takes any more shows as fewer.
LEAST_COMPILED = 1740


@cache
def settings() -> Settings:
    """The CPU at hand with every installed plugin."""
    return bind(Config(target="cpu"), Registry())


def compiled(module: Module, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of the module's program, built and run in this process."""
    return run(plan_module(module, settings()).program, settings(), inputs)


def outcomes(chosen: Sequence[Case]) -> list[Outcome]:
    """What became of the cases; none is wrong and each that the front end takes finds its recipes."""
    found = [run_case(case, compiled) for case in chosen]
    assert [f"{x.name}: {x.detail}" for x in found if x.kind == "wrong"] == []
    assert [f"{x.name}: {x.detail}" for x in found if x.kind == "declined" and "No recipe" in x.detail] == []
    return found


def test_a_sample_of_node_tests_gets_the_right_answers() -> None:
    counts = Counter(x.kind for x in outcomes(cases()[::SAMPLE]))
    assert counts["native"] + counts["specialised"] >= LEAST_COMPILED // SAMPLE - 10


def test_a_wrong_answer_of_the_program_is_noticed() -> None:
    case = next(c for c in cases() if c.name == "test_add")

    def broken(module: Module, inputs: Sequence[Any]) -> list[Any]:
        return compiled(module, [inputs[0], inputs[0]])

    assert run_case(case, broken).kind == "wrong"
