"""Random recursive modules: functions inlined, and their branches and loops rewritten."""

from __future__ import annotations

import numpy as np
import pytest

from plugins.grinder.tests.rewriting import EAGER, edited, equal
from tilewright.interpret.tensor import interpret
from tilewright.ir.verify import verify_module
from tilewright.testing.recursion import recursion_case
from tilewright_grinder.control_rewrite import rewritten
from tilewright_grinder.editor import Notes
from tilewright_grinder.inline import inline_functions

CASES = 40


def check(seed: int) -> bool:
    """Whether there are fewer functions."""
    case = recursion_case(seed)
    module = inline_functions(case.module, 10_000, Notes())
    verify_module(module)
    wanted = interpret(case.module, case.feeds)
    assert equal(interpret(module, case.feeds), wanted)
    made, notes = edited(module, rewritten, EAGER)
    assert equal(interpret(made, case.feeds), wanted), (seed, notes.found)
    for found, exact in zip(wanted, case.wanted, strict=True):
        np.testing.assert_allclose(found, exact, atol=1e-4)
    return len(module.functions) < len(case.module.functions)


@pytest.mark.parametrize("start", range(0, CASES, 20))
def test_random_recursive_modules_compute_the_same(start: int) -> None:
    assert sum(map(check, range(start, start + 20))) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("start", range(CASES, 340, 50))
def test_many_random_recursive_modules_compute_the_same(start: int) -> None:
    for seed in range(start, start + 50):
        check(seed)
