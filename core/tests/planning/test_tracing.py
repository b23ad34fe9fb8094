"""The pass `trace`, which lets launches keep records, and what these become."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from core.tests.ir import samples
from tilewright.config import load_config
from tilewright.config.binding import bind
from tilewright.errors import InputError
from tilewright.ir.program import Launch
from tilewright.planning.tracing import recorded, traced
from tilewright.plugins.manager import Registry
from tilewright.runtime.native import TaskTime


def session(program: samples.Program, kind: str = "cuda", embeddable: bool = True) -> Any:
    recipes = {x.choice.recipe for x in program.kernels.values()}
    return SimpleNamespace(
        device=SimpleNamespace(kind=kind),
        target=kind,
        recipes=[SimpleNamespace(name=x, embeddable=embeddable) for x in recipes],
        table=SimpleNamespace(kernels=program.kernels),
    )


def launches_of(program: samples.Program) -> list[Launch]:
    return [x for x in program.body if isinstance(x, Launch)]


def test_units_have_room_for_what_they_run() -> None:
    """Each unit of a launch for itself runs one task; those of the phases one of each of the three kernels."""
    for kind, most in (("launches", [1, 1, 1]), ("phases", [3])):
        program = samples.program(kind)
        found = traced(launches_of(program), session(program))
        assert [x.traced for x in found] == most
        assert [attrs.evolve(x, traced=0) for x in found] == launches_of(program)


def test_kernels_that_stand_alone_record_nothing() -> None:
    program = samples.program("launches")
    assert {x.traced for x in traced(launches_of(program), session(program, embeddable=False))} == {0}


def test_only_cuda_devices_keep_records() -> None:
    program = samples.program("launches")
    with pytest.raises(InputError, match="what CUDA devices do, and the target is cpu"):
        traced(launches_of(program), session(program, "cpu"))


def test_configuration_can_ask_for_it() -> None:
    settings = bind(load_config({"passes": {"after": {"schedule": ["trace"]}}}), Registry())
    (found,) = settings.passes["after.schedule"]
    assert found.name == "trace"


def test_records_become_a_timeline() -> None:
    """Seconds since the first one, rows by multiprocessor."""
    first, last = (
        TaskTime(unit=7, place=2, kernel="a", nodes=("n",), task=0, begin=5000, end=6000),
        TaskTime(unit=0, place=3, kernel="b", nodes=("m", "o"), task=1, begin=6500, end=9000),
    )
    found = recorded({"two": [last], "one": [first]})
    assert (found.units, found.seconds) == (4, pytest.approx(4e-6))
    bars = [(x.launch, x.unit, x.kernel, x.nodes) for x in found.bars]
    assert bars == [("one", 2, "a", ("n",)), ("two", 3, "b", ("m", "o"))]
    assert [x.begin for x in found.bars] == pytest.approx([0.0, 1.5e-6])
    assert recorded({}).bars == ()
