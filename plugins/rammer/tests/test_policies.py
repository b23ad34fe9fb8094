"""The two policies on operators made by hand, with numbers that can be worked out."""

from __future__ import annotations

import random
from collections import Counter

import attrs
import pytest

from plugins.rammer.tests.fakes import NOTHING_KEPT, TWO, operator
from tilewright_rammer.listing import listed
from tilewright_rammer.memory import Levels
from tilewright_rammer.operators import ROperator
from tilewright_rammer.plan import RProgram, shares
from tilewright_rammer.waves import one_by_one, wave_programs, wavefronts


def order(program: RProgram) -> list[list[tuple[int, int, int, tuple[int, ...]]]]:
    """For each unit (operator, first task, tasks, waits), all parts."""
    units: list[list[tuple[int, int, int, tuple[int, ...]]]] = [[] for _ in program.parts[0]]
    for part in program.parts:
        for unit, runs in enumerate(part):
            units[unit] += [(x.operator.number, x.first, x.count, x.waits) for x in runs]
    return units


def test_tasks_are_shared_out_in_order() -> None:
    assert shares(5, 2) == [(0, 2), (2, 3)]
    assert shares(1, 4) == [(0, 1)]


def test_independent_operators_stand_side_by_side() -> None:
    program = listed([operator(i) for i in range(4)], TWO, NOTHING_KEPT)
    assert order(program) == [[(0, 0, 1, ()), (2, 0, 1, ())], [(1, 0, 1, ()), (3, 0, 1, ())]]
    assert program.seconds == 2 + TWO.launch


def test_a_chain_stays_on_its_unit_and_waits_for_nothing() -> None:
    program = listed([operator(0), operator(1, [0]), operator(2, [1])], TWO, NOTHING_KEPT)
    assert order(program) == [[(0, 0, 1, ()), (1, 0, 1, ()), (2, 0, 1, ())], []]
    assert program.seconds == 3 + TWO.launch


def test_units_wait_for_what_others_do_and_not_again_for_what_they_know() -> None:
    """The last operator needs the first, too, but who knows the second to be done knows that."""
    operators = [operator(0, tasks=2), operator(1, [0], tasks=2), operator(2, [0, 1], tasks=2)]
    program = listed(operators, TWO, NOTHING_KEPT)
    expected = [(0, ()), (1, (0,)), (2, (1,))]
    assert [[(n, waits) for n, _, _, waits in unit] for unit in order(program)] == [expected, expected]
    assert program.seconds == 3 + 2 * TWO.wait + TWO.launch


def test_the_most_urgent_operator_comes_first() -> None:
    """A chain of three and three shorter single ones on two units: the chain is as long as all takes."""
    single = [operator(i, seconds=0.75) for i in range(3)]
    operators = [*single, operator(3), operator(4, [3]), operator(5, [4])]
    program = listed(operators, TWO, NOTHING_KEPT)
    assert program.seconds == 3 + TWO.launch
    assert [x[0] for x in order(program)[0]] == [3, 4, 5]


APART = [1e9] * 64
"""Seconds of launches that nobody would make."""

KEEPS = Levels(far=0.01, shared=0.01, own=0.0, link=0.0, own_bytes=100)


def test_a_unit_runs_what_it_has_the_weights_of() -> None:
    """Four operators, two of each weight; the last one's input is there last on the unit that has other weights."""
    a, b = {"a": 80}, {"b": 80}
    operators = [
        operator(0, weights=a, seconds=2), operator(1, weights=b, seconds=2),
        operator(2, [0, 1], weights=b, seconds=2), operator(3, [0, 1], weights=a, seconds=2),
    ]  # fmt: skip
    units = order(listed(operators, TWO, KEEPS))
    assert sorted([x[0] for x in unit] for unit in units) == [[0, 3], [1, 2]]


def test_a_recurrence_goes_on_with_its_weights() -> None:
    """Two chains, each reading its weights in every second operator: one is run to its end, then the other."""
    chains = [
        operator(i, [i - 2] if i > 1 else [], weights={} if i // 2 % 2 else {"ab"[i % 2]: 80}) for i in range(12)
    ]
    one = attrs.evolve(TWO, units=1)
    (unit,) = order(listed(chains, one, KEEPS))
    assert [x[0] % 2 for x in unit] == [0] * 6 + [1] * 6
    (unit,) = order(listed(chains, one, NOTHING_KEPT))
    assert [x[0] % 2 for x in unit] == [0, 1] * 6


def test_far_memory_is_shared() -> None:
    """Two operators side by side that move 100 bytes each at a byte a second take 200."""
    wide = [attrs.evolve(operator(i), bytes=100) for i in range(2)]
    levels = attrs.evolve(NOTHING_KEPT, far=1.0)
    assert listed(wide, TWO, levels).seconds == 200 + TWO.launch
    ((_, waved),) = wave_programs(wide, TWO, levels, APART)
    assert waved.seconds == 200 + TWO.launch


def test_wavefronts_are_levels() -> None:
    operators = [operator(0), operator(1), operator(2, [0]), operator(3, [0, 2]), operator(4, [1])]
    assert [[x.number for x in wave] for wave in wavefronts(operators)] == [[0, 1], [2, 4], [3]]


@pytest.mark.parametrize(("barrier", "apart", "programs"), [(1.0, 4.0, 1), (4.0, 4.0, 2), (1.0, 3.0, 2)])
def test_a_wave_joins_where_a_barrier_is_cheaper_than_a_launch(barrier: float, apart: float, programs: int) -> None:
    """Together they take 6 seconds and the barrier, as kernels of their own `apart` each."""
    device = attrs.evolve(TWO, barrier=barrier)
    found = wave_programs([operator(0, tasks=2), operator(1, [0], tasks=3)], device, NOTHING_KEPT, [apart] * 2)
    assert len(found) == programs
    assert sum(x.seconds for _, x in found) == 1 + 2 + (3.0 + barrier if programs == 1 else 6.0)


def test_launches_of_their_own() -> None:
    """A GPU runs all tasks of a launch at once, whatever a merged one had room for; a CPU has its threads."""
    operators = [operator(0, tasks=2), operator(1, [0], tasks=3)]
    assert one_by_one(operators, TWO, NOTHING_KEPT) == [4.0, 4.0]
    cpu = attrs.evolve(TWO, serial=True)
    assert one_by_one([operator(0), operator(1, [0], tasks=3)], cpu, NOTHING_KEPT) == [1.0, 5.0]


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_are_complete_and_in_order(seed: int) -> None:
    """Each task once, each operator after those it needs: by the predicted times, waits apart."""
    rng = random.Random(seed)
    operators: list[ROperator] = []
    for number in range(rng.randrange(1, 40)):
        before = sorted(rng.sample(range(number), min(number, rng.randrange(3))))
        weights = {rng.choice("abc"): rng.randrange(1, 90)} if rng.random() < 0.5 else {}
        operators.append(operator(number, before, rng.randrange(1, 7), rng.random(), weights))
    device = attrs.evolve(TWO, units=rng.randrange(2, 6))
    programs = [listed(operators, device, KEEPS), *(x for _, x in wave_programs(operators, device, KEEPS, APART))]
    assert sum(len(x.parts) for x in programs[1:]) == len(wavefronts(operators))
    for program in (programs[:1], programs[1:]):
        runs = [run for part in program for run in part.runs]
        tasks = Counter((x.operator.number, x.first + i) for x in runs for i in range(x.count))
        assert tasks == Counter((x.number, t) for x in operators for t in range(x.tasks))
    starts = {x.operator.number: x.start for x in reversed(programs[0].runs)}
    ends: dict[int, float] = {}
    for run in programs[0].runs:
        starts[run.operator.number] = min(starts[run.operator.number], run.start)
        ends[run.operator.number] = max(ends.get(run.operator.number, 0.0), run.end)
    for one in operators:
        assert all(ends[x] <= starts[one.number] + 1e-9 for x in one.before)
