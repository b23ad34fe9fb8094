"""Homes of slices on operators made by hand: who keeps what, when it is fetched, and how much there is room for."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from plugins.rammer.tests.fakes import NOTHING_KEPT, TWO, planned
from tilewright.device import load_device
from tilewright.ir.choice import Slice
from tilewright.ir.expr import const
from tilewright.ir.program import Envelope, Fetch, Near, Phase, Signal, Task, Wait
from tilewright.ir.verify.tree import leaves
from tilewright.planning.own import room
from tilewright_rammer.homes import Homes, Room, divided
from tilewright_rammer.launching import launch_of
from tilewright_rammer.listing import listed
from tilewright_rammer.memory import Levels
from tilewright_rammer.operators import ROperator
from tilewright_rammer.plan import RProgram, Run

H200 = load_device("h200")
FOUR = attrs.evolve(TWO, units=4)
SIZE = 64
BOTH = Near(0, 2)
LEVELS = Levels(far=0.01, shared=0.01, own=0.0, link=0.0, own_bytes=0)


def reader(number: int, weight: str, before: Sequence[int] = (), tasks: int = 2, seconds: float = 1.0) -> ROperator:
    """An operator whose tasks read two slices of a weight, 64 bytes together."""
    item = planned(f"k{weight}", [weight, f"x{number}"], [f"y{number}"], tasks)
    slices = (Slice(0, 0, SIZE // 2, 512), Slice(0, 512, SIZE // 2, 1024))
    choice = attrs.evolve(item.kernel.choice, slices=slices)
    kernel = attrs.evolve(item.kernel, choice=choice, sliced=(0, 0))
    made = attrs.evolve(item, kernel=kernel, choices=(choice,))
    return ROperator(number, made, seconds, tuple(before), 0, {weight: tasks * SIZE})


def layers(steps: int) -> list[ROperator]:
    """Two recurrences, of which one reads what the other makes."""
    found: list[ROperator] = []
    for step in range(steps):
        found.append(reader(2 * step, "a", [2 * step - 2] if step else []))
        found.append(reader(2 * step + 1, "b", [2 * step, *([2 * step - 1] if step else [])]))
    return found


def by_task(program: RProgram) -> dict[tuple[str, int], list[tuple[int, Run]]]:
    """The runs of each task of a weight, in order, with their units."""
    found: dict[tuple[str, int], list[tuple[int, Run]]] = {}
    (part,) = program.parts
    for unit, runs in enumerate(part):
        for run in runs:
            found.setdefault((run.operator.planned.args[0], run.first), []).append((unit, run))
    return {key: sorted(runs, key=lambda x: x[1].start) for key, runs in found.items()}


def test_every_task_has_a_home_where_there_is_room() -> None:
    found = by_task(listed(layers(5), FOUR, LEVELS, Room(SIZE)))
    assert len({runs[0][0] for runs in found.values()}) == len(found) == 4
    for runs in found.values():
        assert len({unit for unit, _ in runs}) == 1
        assert [(x.near, x.fetches) for _, x in runs] == [(BOTH, True), *[(BOTH, False)] * 4]


def test_a_unit_keeps_as_much_as_it_has_room_for() -> None:
    """On two units each has one home with room for one, and two, one behind the other, with room for two."""
    one, two = (by_task(listed(layers(5), TWO, LEVELS, Room(n * SIZE))) for n in (1, 2))
    assert {x.near for runs in one.values() for _, x in runs} == {BOTH, None}
    assert sum(x.fetches for runs in one.values() for _, x in runs) == 2
    assert {x.near for runs in two.values() for _, x in runs} == {BOTH, Near(SIZE, 2)}
    assert sum(x.fetches for runs in two.values() for _, x in runs) == 4


def test_a_unit_without_room_for_all_slices_keeps_the_first() -> None:
    """On two units with room for three slices: two of the first task, one of the second."""
    program = listed(layers(5), TWO, LEVELS, Room(SIZE + SIZE // 2))
    runs = program.runs
    assert {x.near for x in runs} == {BOTH, Near(SIZE, 1)}
    launch = launch_of(program, "all", Envelope(2, 32, cooperative=True))
    assert launch.envelope.own_bytes == SIZE + SIZE // 2
    fetches = [x for x in leaves(launch.body) if isinstance(x, Fetch)]
    assert len(fetches) == 2 * (2 + 1)
    assert sum(x.first == const(512) or x.first == const(512 + SIZE // 2) for x in fetches) == 2


@pytest.mark.parametrize(("steps", "room"), [(5, 0), (5, SIZE // 2 - 16), (1, SIZE)])
def test_nothing_is_kept_without_room_or_without_another_use(steps: int, room: int) -> None:
    assert all(x.near is None for x in listed(layers(steps), FOUR, LEVELS, Room(room)).runs)


def test_a_near_task_is_predicted_to_be_faster() -> None:
    far, near = (listed(layers(5), FOUR, LEVELS, Room(n)).seconds for n in (0, SIZE))
    assert near < far


def test_a_task_waits_for_its_home_as_long_as_one_takes() -> None:
    """Its home is busy until 1 + `busy`, while the other unit knows at 1.5 what the task needs."""
    for busy, home, start in ((1.25, 0, 2.25), (1.75, 1, 1.5)):
        other = attrs.evolve(reader(1, "c", [0], tasks=1, seconds=busy), planned=planned("c", ["z"], ["w"], 1))
        operators = [reader(0, "a", tasks=1), other, reader(2, "a", [0], tasks=1)]
        first, last = by_task(listed(operators, TWO, NOTHING_KEPT, Room(SIZE)))["a", 0]
        assert (first[0], last[0], last[1].start) == (0, home, start)


def test_homes_count_what_comes_again() -> None:
    operators = [reader(0, "a"), reader(1, "a"), reader(2, "b")]
    homes = Homes(operators, 2, Room(SIZE))
    assert [homes.again(x) for x in operators] == [1, 1, 0]
    assert homes.bring(0, operators[2], 0, 1) == (None, False)
    assert homes.bring(0, operators[0], 0, 1) == (BOTH, True)
    assert homes.bring(0, operators[0], 1, 1) == (None, False)
    assert homes.bring(1, operators[0], 1, 1) == (BOTH, True)
    homes.placed(operators[0])
    assert homes.again(operators[1]) == 0
    assert homes.bring(0, operators[1], 0, 1) == (BOTH, False)
    assert [homes.free(x) for x in (0, 1)] == [0, 0]


def test_fetches_stand_in_front_of_waits() -> None:
    """So that weights are under way while a unit waits for what its task reads besides."""
    program = listed(layers(3), FOUR, LEVELS, Room(SIZE))
    launch = launch_of(program, "all", Envelope(4, 32, cooperative=True))
    assert launch.envelope.own_bytes == SIZE
    (phase,) = launch.body
    assert isinstance(phase, Phase)
    lanes = {x.items[-1].args[0] if isinstance(x.items[-1], Task) else "a": x.items for x in phase.lanes}
    kinds = [type(x) for x in lanes["b"]]
    assert kinds[:4] == [Fetch, Fetch, Wait, Task]
    assert kinds.count(Fetch) == 2
    assert Signal in kinds
    for lane in phase.lanes:
        fetches = [x for x in lane.items if isinstance(x, Fetch)]
        (task,) = {int(x.first.value) for x in lane.items if isinstance(x, Task)}  # type: ignore[attr-defined]
        assert [(x.first.value, x.bytes, x.offset) for x in fetches] == [  # type: ignore[attr-defined]
            (task * SIZE // 2, SIZE // 2, 0),
            (512 + task * SIZE // 2, SIZE // 2, SIZE // 2),
        ]
        assert all(x.near == BOTH for x in lane.items if isinstance(x, Task))


@pytest.mark.parametrize("units", [1, 2, 4])
def test_there_is_room_for_what_leaves_all_units_at_work(units: int) -> None:
    envelope = Envelope(132 * units, 256, 32, 320, cooperative=True)
    found = room(envelope, H200)
    assert (227 << 10) // units - 4096 <= found <= (227 << 10) // units
    kept, more = (attrs.evolve(envelope, own_bytes=found + n).block_bytes for n in (0, 2048))
    assert kept <= H200.shared_per_block
    assert H200.blocks_together(256, 32, kept) >= envelope.units
    assert more > H200.shared_per_block or H200.blocks_together(256, 32, more) < envelope.units


def test_only_units_of_cuda_devices_keep_anything() -> None:
    assert room(Envelope(4, 256, 32), load_device("mi300x")) == 0


def test_memory_is_divided() -> None:
    """Of 8 KiB: an operator of four tasks on two units reads twice 1024 bytes of each at a time."""
    wide = reader(0, "a", tasks=4)
    slices = (Slice(0, 0, 1000, 4096), Slice(0, 4096, 24, 512))
    choice = attrs.evolve(wide.choice, slices=slices)
    kernel = attrs.evolve(wide.planned.kernel, choice=choice)
    wide = attrs.evolve(wide, planned=attrs.evolve(wide.planned, kernel=kernel))
    size = 8 << 10
    assert divided(size, [wide], 2, keep=True, ahead=False) == Room(size, 0)
    assert divided(size, [wide], 2, keep=True, ahead=True) == Room(size - 2048, 2048)
    assert divided(2048, [wide], 2, keep=True, ahead=True) == Room(1024, 1024)
    assert divided(2048, [wide], 2, keep=False, ahead=True) == Room(0, 2048)
    assert divided(size, [wide], 2, keep=False, ahead=False) == Room()


def test_what_is_not_kept_is_fetched_ahead_of_a_wait() -> None:
    """Each time, over what the task before had; a task that waits for nothing reads its weights where they are."""
    runs = listed(layers(3), FOUR, LEVELS, Room(0, SIZE)).runs
    assert all((x.near, x.fetches) == ((BOTH, True) if x.waits else (None, False)) for x in runs)
    assert {bool(x.waits) for x in runs} == {True, False}
    both = listed([*layers(3), reader(6, "c", [5])], FOUR, LEVELS, Room(SIZE, SIZE // 2)).runs
    last = [x for x in both if x.operator.number == 6 and x.waits]
    assert last
    assert all((x.near, x.fetches) == (Near(SIZE, 1), True) for x in last)
    assert {x.near for x in both if x.operator.number < 6} == {BOTH}
