"""Predicted timelines of the sample programs, whose seconds can be worked out."""

from __future__ import annotations

import itertools

import attrs
import pytest

from core.tests.ir import samples
from tilewright.device import DeviceModel, MemoryLevel
from tilewright.pictures import chrome_trace, draw_timeline
from tilewright.planning.timeline import task_seconds, timeline_of

DEVICE = DeviceModel(
    "d", "cuda", "sm_90", 2, {"fma": 1.0}, (MemoryLevel("dram", 1 << 30, 1.0),), max_threads_per_unit=64,
    max_blocks_per_unit=1, launch_seconds=10.0, barrier_seconds=2.0,
)  # fmt: skip
"""Two units that run one task each: the samples' kernels of four tasks take two rounds of three seconds."""


def sample(kind: str) -> samples.Program:
    made = samples.program(kind)
    kernels = {n: attrs.evolve(k, choice=attrs.evolve(k.choice, cost=16.0)) for n, k in made.kernels.items()}
    return attrs.evolve(made, kernels=kernels)


def test_a_task_takes_its_share_of_a_launch_alone() -> None:
    assert task_seconds(sample("launches").kernels["double"].choice, DEVICE) == 3.0


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("launches", 3 * (10 + 6)),
        # It begins a barrier's two seconds later than a launch of one kernel; behind a barrier 1.7 times that.
        ("phases", 12 + 6 + 3.4 + 6 + 3.4 + 6),
        # Four units on two places: each waits for the signals of all, 3.5 times a barrier's seconds.
        ("events", 12 + 6 + 7 + 6 + 7 + 6),
    ],
)
def test_programs_are_played_out(kind: str, seconds: float) -> None:
    found = timeline_of(sample(kind), DEVICE)
    assert found.units == 2
    assert len(found.bars) == 12
    assert found.seconds == pytest.approx(seconds)
    assert found.busy == pytest.approx(36 / (2 * found.seconds))
    for unit in range(2):
        mine = [x for x in found.bars if x.unit == unit]
        assert all(a.end <= b.begin for a, b in itertools.pairwise(mine))
    for before, after in (("double", "triple"), ("triple", "five")):
        assert max(x.end for x in found.bars if x.kernel == before) <= min(
            x.begin for x in found.bars if x.kernel == after
        )


def test_the_trace_and_the_picture_show_every_bar() -> None:
    found = timeline_of(sample("phases"), DEVICE)
    bars = [x for x in chrome_trace(found)["traceEvents"] if x["ph"] == "X"]
    first = [(x["name"], x["tid"], x["ts"], x["dur"]) for x in bars[:2]]
    assert first == [("double", 0, 1.2e7, 3e6), ("double", 1, 1.2e7, 3e6)]
    text = draw_timeline(found, "a < b")
    assert text.count('class="bar"') == 12
    assert "a &lt; b" in text
    assert "busy 49% of the time" in text
