"""Construction: the order of growth, what ends it, scale-out, and that it is short."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

from plugins.roller.tests.test_rtile import MB, NB, product
from tilewright.device import load_device
from tilewright.ir.expr import const
from tilewright.recipes import Constraint, Match, Parameter, Usage
from tilewright_roller.construct import SLACK, Construction
from tilewright_roller.cost import predict
from tilewright_roller.options import RollerOptions
from tilewright_roller.propose import construct
from tilewright_roller.rtile import source_of, traffic
from tilewright_roller.scale import polished, shrunk, varied

H200 = load_device("h200")


def built(match: Match, beam: int = 4) -> Construction:
    made = Construction(match, H200, beam)
    made.run()
    return made


def test_every_state_is_legal_and_aligned() -> None:
    made = built(product())
    assert made.visited
    for state in made.visited:
        params = dict(zip((p.name for p in made.match.parameters), state, strict=True))
        assert made.match.refusal(params) == ""
        assert all(x in sizes for x, sizes in zip(state, made.ladders, strict=True))


def test_the_nearest_level_comes_first() -> None:
    levels = list(dict.fromkeys(built(product()).visited.values()))
    assert levels == ["register", "shared"]


def test_a_nearer_tile_is_the_unit_of_the_next() -> None:
    for state, level in built(product()).visited.items():
        if level == "shared":
            m_block, n_block, _, m_thread, n_thread = state
            assert (m_block % m_thread, n_block % n_thread) == (0, 0)


def test_growth_follows_the_score() -> None:
    """With a beam of one there is one path, and each step of it has the best score."""
    made = built(product(), beam=1)
    state, steps = (8, 8, 8, 8, 8), 0
    while not made.compute_bound("shared", [state])[0]:
        assert state in made.visited
        options = made._steps([state], [0, 1, 2]).get(state, [])
        if not options:
            break
        scores = made.scores("shared", [state] * len(options), options)
        # The score by hand: the operand that does not vary with the axis is loaded fewer times.
        m, n, k = state[:3]
        for (m2, n2, k2, *_), score in zip(options, scores, strict=True):
            loads = [-(-1024 // x) for x in (m, m2, n, n2)]
            saved = 4 * 1024**2 * (loads[0] - loads[1] + loads[2] - loads[3])
            taken = 4 * ((m2 + n2) * k2 - (m + n) * k)
            assert score == pytest.approx(saved / taken)
        state, steps = options[int(np.argmax(scores))], steps + 1
    assert steps > 8


def test_growth_ends_where_computing_takes_longest() -> None:
    quick = attrs.evolve(product(), work=attrs.evolve(product().work, flops=const(1 << 60)))
    made = built(quick)
    assert len(made.visited) <= 8  # nothing grows: the smallest tiles are compute-bound
    slow = built(product())
    bound = slow.compute_bound("shared", list(slow.visited))
    source = source_of(slow.match, "shared", H200)
    loading = traffic(slow.match, "shared", slow.columns(list(slow.visited)), source.transaction) / source.bandwidth
    computing = 2 * 1024**3 / H200.peak["fma"]
    np.testing.assert_array_equal(bound, loading * SLACK <= computing)


def test_growth_ends_where_a_level_is_full() -> None:
    match = product()
    tight = attrs.evolve(match, constraints=(*match.constraints, Constraint(MB + NB, const(40), "room")))
    assert max(s[0] + s[1] for s in built(tight).visited) == 40


def test_a_kernel_without_a_legal_choice() -> None:
    match = product()
    assert not built(attrs.evolve(match, constraints=(Constraint(const(1), const(0), "never"),))).visited


def test_sizes_that_only_the_recipe_names() -> None:
    """Where alignment leaves nothing legal, the recipe's candidates do."""
    match = product(m=8)
    odd = attrs.evolve(match, constraints=(*match.constraints, Constraint(const(128), MB, "large blocks")))
    assert {s[0] for s in built(odd).visited} == {128}


def test_small_kernels_get_more_tasks() -> None:
    match = product(m=128, n=128, k=4096)
    made = built(match)
    large = (128, 128, 8, 8, 8)
    smaller = shrunk(made, large)
    tasks = [int(x) for x in made.tasks([large, *smaller])]
    assert tasks[0] == 1
    assert tasks == sorted(set(tasks))
    assert tasks[-1] >= H200.units or not [x for x in smaller[-1][:2] if x > 8]
    assert shrunk(built(product(4096, 4096)), (64, 64, 8, 8, 8)) == []
    without = construct(match, H200, RollerOptions(shrink=False))
    assert "shrunk" not in without.visited.values()


def test_parameters_that_cut_no_tile_are_varied() -> None:
    match = product()
    staged = attrs.evolve(match, parameters=(*match.parameters, Parameter("stages", (2, 3, 4))))
    made = built(staged)
    assert {s[5] for s in made.visited} == {2}
    assert {s[5] for s in varied(made, list(made.visited)[:1])} == {2, 3, 4}


def test_polishing_finds_a_quicker_neighbour() -> None:
    made = built(product())
    start = (32, 32, 8, 4, 4)

    def cost(states: Any) -> Any:
        return np.asarray([abs(s[0] - 64) + abs(s[2] - 16) + 1.0 for s in states])

    found = polished(made, [start], cost)
    best = min(found, key=lambda s: cost([s])[0])
    assert (best[0], best[2]) == (64, 16)


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1024, 7), (5, 3, 1 << 20), (8192, 8192, 8192), (997, 1009, 1013)])
def test_construction_is_short(size: tuple[int, int, int]) -> None:
    made = construct(product(*size), H200, RollerOptions())
    assert made.visited
    assert made.evaluations < 12_000


def test_a_choice_has_a_cost_per_level() -> None:
    made = built(product())
    prediction = predict(made.match, made.columns(list(made.visited)), H200)
    assert set(prediction.parts) == {"compute", "dram", "shared", "l2", "steps", "launch"}
    assert (prediction.total >= max(prediction.parts["compute"].min(), H200.launch_seconds)).all()


def test_a_recipe_without_parameters_has_one_choice() -> None:
    match = attrs.evolve(product(), parameters=(), constraints=(), usage=Usage(const(3)), tiles={})
    assert list(construct(match, H200, RollerOptions()).visited) == [()]


@pytest.mark.parametrize("size", [(0, 8, 8), (8, 8, 0), (0, 0, 0)])
def test_an_empty_kernel_has_a_choice(size: tuple[int, int, int]) -> None:
    made = construct(product(*size), H200, RollerOptions())
    assert made.visited
    assert np.isfinite(predict(made.match, made.columns(list(made.visited)), H200).total).all()


def test_a_recipe_that_describes_no_tiles_has_choices_too() -> None:
    match = attrs.evolve(product(), tiles={}, operands=())
    made = construct(match, H200, RollerOptions())
    assert len(made.visited) == 1
    found = varied(made, list(made.visited))
    assert len(found) > 10
    assert all(not match.refusal(dict(zip((p.name for p in match.parameters), s, strict=True))) for s in found)
    assert np.isfinite(predict(match, made.columns(found), H200).total).all()
