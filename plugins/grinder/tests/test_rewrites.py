"""Every rewrite is bitwise: random models with control flow, interpreted before and after it."""

from __future__ import annotations

import random

import pytest

from plugins.grinder.tests.rewriting import EAGER, REWRITES, edited, equal, moved_parameters, random_case
from tilewright.interpret.tensor import interpret
from tilewright_grinder.options import GrinderOptions

CASES = 120
MANY = 420
LEAST = {"dead": 5, "leading": 8, "predicate": 10}
"""How many of the random models a rewrite changes at least; 30 where it is not said."""


def check(rewrite: str, seed: int, options: GrinderOptions = EAGER) -> bool:
    """Whether the rewrite changed the model; what it computes must be the same."""
    module, feeds, wanted = random_case(seed)
    made, notes = edited(module, REWRITES[rewrite], options)
    assert equal(interpret(made, feeds), wanted), (seed, notes.found)
    assert moved_parameters(made) == []
    return made != module


@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_rewrite_keeps_every_bit(rewrite: str) -> None:
    changed = sum(check(rewrite, seed) for seed in range(CASES))
    assert changed >= LEAST.get(rewrite, 30)


def drawn(seed: int) -> GrinderOptions:
    """Options by which some is done and some is not."""
    draw = random.Random(seed)
    return GrinderOptions(
        unroll=draw.choice([0, 10, 40, 1000]),
        factor=draw.choice([1, 2, 3, 4]),
        branch=draw.choice([0.0, 1e-6, 1.0]),
        small=draw.choice([0, 6, 1000]),
        wavefront=draw.choice(["auto", "always", "never"]),
    )


def test_any_options_keep_every_bit() -> None:
    assert sum(check("all", seed, drawn(seed)) for seed in range(CASES)) >= 60


@pytest.mark.slow
@pytest.mark.parametrize("start", range(CASES, MANY, 100))
def test_many_models_keep_every_bit(start: int) -> None:
    for seed in range(start, start + 100):
        for rewrite in REWRITES:
            check(rewrite, seed)
        check("all", seed, drawn(seed))
