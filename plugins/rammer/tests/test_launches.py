"""Waves as launches: what stands in which launch, in which order, and when kernels keep launches of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from plugins.rammer.tests.fakes import planned
from tilewright.device import load_device
from tilewright.ir.choice import Resources
from tilewright.ir.expr import Var, const
from tilewright.ir.program import UNIT, Envelope, Launch, Phase, Task
from tilewright.planning.requests import Planned, Request
from tilewright.planning.session import Session
from tilewright.recipes import Recipe
from tilewright_rammer import launches
from tilewright_rammer.options import RammerOptions
from tilewright_rammer.schedule import make

MICRO = 1e-6


def kernel(name: str, reads: Sequence[str], writes: Sequence[str], seconds: float, **needs: int) -> Planned:
    """A kernel that takes so many microseconds, its launch of four included."""
    item = planned(name, reads, writes, cost=seconds * MICRO)
    resources = attrs.evolve(Resources(4, 128, 64, 1024), **needs)
    choice = attrs.evolve(item.kernel.choice, resources=resources)
    return attrs.evolve(item, choices=(choice,), kernel=attrs.evolve(item.kernel, choice=choice))


def scheduled(kernels: Sequence[Planned], device: str = "mi300x", **options: Any) -> tuple[list[Launch], Session]:
    model = load_device(device)
    recipes = [Recipe(x, model.kind, lambda *_: None, embeddable=x == "fake") for x in ("fake", "alone")]
    session = Session(f"{model.kind}:{device}", model, recipes, {"propose": lambda *_: ()}, frozenset())
    made = make(RammerOptions(**options))(kernels, Request(session))
    return list(made), session


def tasks(launch: Launch) -> list[tuple[str, int, int]]:
    """(kernel, first unit, units) of each lane, whose units run the task of their number in the lane."""
    (phase,) = launch.body
    assert isinstance(phase, Phase)
    found = []
    for lane in phase.lanes:
        (item,) = lane.items
        assert isinstance(item, Task)
        assert item.first == Var(UNIT) - lane.first
        assert item.count == const(1)
        found.append((item.kernel, lane.first, int(lane.units.value)))  # type: ignore[attr-defined]
    return found


DIAMOND = (
    kernel("a", ["x"], ["s"], 6),
    kernel("b", ["s"], ["t"], 6, tasks=3),
    kernel("c", ["s"], ["u"], 12, tasks=5, threads=256, registers=32),
    kernel("d", ["t", "u"], ["y"], 6),
)


def test_a_wave_is_a_launch() -> None:
    """The longer tasks first; a launch takes 4 µs, so b and c take 18 apart, and 4 and what c takes together."""
    made, session = scheduled(DIAMOND)
    assert [x.name for x in made] == ["a", "b", "d"]
    assert tasks(made[1]) == [("c", 0, 5), ("b", 5, 3)]
    assert made[1].envelope == Envelope(8, 256, 64, 1024)
    assert not made[1].events
    (decision,) = [x for x in session.record.decisions if x.subject == "b"]
    assert decision.costs == pytest.approx((12 * MICRO, 18 * MICRO))
    assert "mi300x cannot wait for each other" in decision.why


@pytest.mark.parametrize("policy", ["list", "waves", "launches"])
def test_devices_without_the_promise_have_no_other_policy(policy: str) -> None:
    assert scheduled(DIAMOND, policy=policy)[0] == scheduled(DIAMOND)[0]
    together = scheduled(DIAMOND, "h200", policy=policy, gain=-9.0)[0]
    assert any(x.envelope.cooperative for x in together) == (policy != "launches")


def test_one_kernel_of_a_wave_stands_together() -> None:
    """Three calls of one kernel next to each other, whatever comes between them in the model."""
    one, other = kernel("k", ["x"], ["s"], 6), kernel("z", ["x"], ["t"], 6)
    calls = [one, other, *(attrs.evolve(one, group=attrs.evolve(one.group, name=n), args=("x", n)) for n in "uv")]
    (launch,) = scheduled(calls)[0]
    assert [x for x, _, _ in tasks(launch)] == ["k", "k", "k", "z"]


def alone(item: Planned) -> Planned:
    choice = attrs.evolve(item.kernel.choice, recipe="alone")
    return attrs.evolve(item, kernel=attrs.evolve(item.kernel, choice=choice))


def test_what_cannot_stand_beside_others_has_a_launch_in_its_wave() -> None:
    """A kernel that is not embeddable, and one whose tasks fill the device; the rest of the wave is merged."""
    full = kernel("f", ["x"], ["w"], 50, tasks=100_000)
    kernels = [alone(kernel("a", ["x"], ["s"], 6)), kernel("b", ["x"], ["t"], 6), full, kernel("c", ["x"], ["u"], 6)]
    made, session = scheduled([*kernels, kernel("d", ["s", "t", "w", "u"], ["y"], 6)])
    assert sorted(x.name for x in made[:-1]) == ["a", "b", "f"]
    assert made[-1].name == "d"
    assert [len(x.body[0].lanes) for x in made if x.name == "b"] == [2]  # type: ignore[union-attr]
    why = {x.subject: x.why for x in session.record.decisions}
    assert "recipe alone" in why["a"]
    assert "fill the device" in why["f"]


def test_a_wave_that_would_take_longer_is_not_merged() -> None:
    """Beside a block of 1024 threads with 128 registers a unit holds no other, of any kind: most then wait for room."""
    many = [kernel(f"k{i}", ["x"], [f"v{i}"], 100, tasks=4000, threads=64, registers=32) for i in range(2)]
    kernels = [*many, kernel("large", ["x"], ["w"], 100, tasks=300, threads=1024, registers=128)]
    made, session = scheduled(kernels)
    assert [x.name for x in made] == ["k0", "k1", "large"]
    assert "one launch" in session.record.decisions[0].why
    assert len(scheduled(kernels, gain=-100.0)[0]) == 1


def test_kernels_that_stay_alone_keep_their_order() -> None:
    """Two chains: breadth first would hold values of both, for nothing."""
    chains = [kernel(f"{c}{i}", [f"{c}{i}"], [f"{c}{i + 1}"], 6) for c in "ab" for i in range(3)]
    assert [x.name for x in scheduled([alone(x) for x in chains])[0]] == [x.kernel.name for x in chains]
    assert [x.name for x in scheduled(chains)[0]] == ["a0", "a1", "a2"]


def test_a_launch_names_no_more_values_than_a_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches, "_MOST_VALUES", 5)
    made = scheduled([kernel(f"k{i}", ["x"], [f"v{i}"], 6) for i in range(10)])[0]
    assert [len(x.body[0].lanes) for x in made] == [4, 4, 2]  # type: ignore[union-attr]
