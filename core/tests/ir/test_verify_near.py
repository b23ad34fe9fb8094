# ruff: noqa: E501  (the tables have one case per line)
"""What units keep in memory of their own: the sample keeps the laws, and every way to read something else is refused."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import pytest

from core.tests.ir import samples
from core.tests.ir.samples import SIZE, TASKS
from core.tests.ir.test_verify_module import refused
from tilewright.device import load_device
from tilewright.interpret.task import run_tasks
from tilewright.ir.choice import Resources, Slice
from tilewright.ir.expr import Var, const
from tilewright.ir.program import (
    UNIT,
    BlockControl,
    Envelope,
    Fetch,
    GridControl,
    Item,
    Lane,
    Launch,
    Near,
    Phase,
    Program,
    Task,
    launches,
)
from tilewright.ir.verify import near, program, verify_program

H200 = load_device("h200")
U = Var(UNIT)
NEAR = Task("scale", ("x", "w", "y"), U, near=Near(0, 1))
FAR = attrs.evolve(NEAR, near=None)
FETCH = Fetch("w", U * 16, 16, 0)
WHOLE = Fetch("w", const(0), 64, 0)
made = samples.near_program


def lanes(*found: Lane, units: int = TASKS) -> Program:
    return attrs.evolve(made(), body=(Launch("all", Envelope(units, 32, own_bytes=64, cooperative=True), (Phase(found),)),))


def parts(*found: Phase | GridControl) -> Program:
    return attrs.evolve(made(), body=(Launch("all", Envelope(TASKS, 32, own_bytes=64, cooperative=True), found),))


def phase(*items: Item) -> Phase:
    return Phase((Lane(0, const(TASKS), items),))


def short(*found: Item) -> Program:
    """The sample in two tasks on one unit, of 12 floats and of the last 4."""
    scale = made().kernels["scale"]
    chosen = attrs.evolve(scale.choice, resources=Resources(2, 32), slices=(Slice(1, 0, 48, 64),))
    both = attrs.evolve(NEAR, first=const(0), count=const(2))
    one = lanes(Lane(0, const(1), (*found, both)), units=1)
    return attrs.evolve(one, kernels={"scale": attrs.evolve(scale, choice=chosen)})


ALL = attrs.evolve(NEAR, first=const(0), count=const(TASKS))
KEPT: dict[str, Callable[[], Program]] = {
    "its own slice": lambda: made(),
    "far as well": lambda: made(FAR),
    "all slices, in one piece": lambda: lanes(Lane(0, const(1), (WHOLE, ALL)), units=1),
    "all slices, piece by piece": lambda: lanes(Lane(0, const(1), (*(Fetch("w", const(n * 16), 16, n * 16) for n in range(4)), ALL)), units=1),
    "every other one": lambda: lanes(*(Lane(u, const(1), (Fetch("w", const(u * 16), 16, 0), Fetch("w", const(u * 16 + 32), 16, 16), attrs.evolve(ALL, first=const(u), count=const(2), stride=const(2)))) for u in range(2))),
    "fetched over what is not read any more": lambda: made(FETCH, NEAR, Fetch("w", const(0), 16, 0)),
    "over a barrier": lambda: parts(phase(FETCH), phase(NEAR)),
    "a last slice of fewer bytes": lambda: short(Fetch("w", const(0), 48, 0), Fetch("w", const(48), 16, 48)),
    "in a loop": lambda: made(FETCH, BlockControl("trip", const(3), "", (NEAR,))),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_programs_that_read_what_was_fetched_keep_the_laws_and_their_meaning(case: str) -> None:
    one = KEPT[case]()
    verify_program(one, H200)
    x = np.linspace(-1, 1, SIZE, dtype=np.float32)
    (found,) = run_tasks(one, [x], 0)
    np.testing.assert_array_equal(found, x * np.arange(SIZE, dtype=np.float32))


BROKEN: dict[str, tuple[Callable[[], Program], str, str]] = {
    "slices of no parameter": (lambda: attrs.evolve(made(), kernels={"scale": attrs.evolve(made().kernels["scale"], sliced=(2,))}), program.PARAMS, "kernel scale"),
    "nothing fetched": (lambda: made(NEAR), near.NEAR, "unit 0"),
    "fetched behind it": (lambda: made(NEAR, FETCH), near.NEAR, "unit 0"),
    "another slice": (lambda: made(attrs.evolve(FETCH, first=U * -16 + 48), NEAR), near.NEAR, "unit 0"),
    "another place": (lambda: made(attrs.evolve(FETCH, offset=16), NEAR, own_bytes=32), near.NEAR, "byte 0"),
    "beside it": (lambda: made(FETCH, NEAR, attrs.evolve(NEAR, near=Near(16, 1)), own_bytes=32), near.NEAR, "byte 16"),
    "fetched over": (lambda: made(FETCH, Fetch("w", (U + 1) % 4 * 16, 16, 0), NEAR), near.NEAR, "unit 0"),
    "partly fetched over": (lambda: lanes(Lane(0, const(1), (WHOLE, Fetch("w", const(0), 16, 32), ALL)), units=1), near.NEAR, "task 2 of scale"),
    "a last slice elsewhere": (lambda: short(Fetch("w", const(0), 48, 0), Fetch("w", const(48), 16, 32)), near.NEAR, "task 0 of scale"),
    "no last slice": (lambda: short(Fetch("w", const(0), 48, 0)), near.NEAR, "task 1 of scale"),
    "by another unit": (lambda: lanes(Lane(0, const(1), (WHOLE,)), Lane(1, const(1), (ALL,))), near.NEAR, "unit 1"),
    "a task too many": (lambda: made(FETCH, attrs.evolve(NEAR, count=const(2)), own_bytes=32), near.NEAR, "task 1 of scale"),
    "of a kernel without slices": (lambda: without_slices(made()), near.NEAR, "it has 0"),
    "no slice": (lambda: made(FETCH, attrs.evolve(NEAR, near=Near(0, 0))), near.NEAR, "reads 0 slices near"),
    "a slice too many": (lambda: made(FETCH, attrs.evolve(NEAR, near=Near(0, 2))), near.NEAR, "it has 1"),
    "by a trip's number": (lambda: made(WHOLE, BlockControl("t", const(4), "", (attrs.evolve(NEAR, first=Var("t")),)), own_bytes=64), near.NEAR, "scale"),
    "fetched in a loop of the unit": (lambda: made(BlockControl("t", const(2), "", (FETCH,)), NEAR), near.FETCHES, "loop t"),
    "fetched in a loop of the grid": (lambda: parts(GridControl("t", const(2), "", (phase(FETCH, NEAR),))), near.FETCHES, "loop t"),
    "fetched from an input": (lambda: made(attrs.evolve(FETCH, source="x"), FAR), near.FETCHES, "'x'"),
    "fetched beyond the end": (lambda: made(attrs.evolve(FETCH, first=U * 16 + 16), FAR), near.FETCHES, "unit 3"),
    "fetched from in front": (lambda: made(attrs.evolve(FETCH, first=U * 16 - 16), FAR), near.FETCHES, "unit 0"),
    "not whole pieces": (lambda: made(attrs.evolve(FETCH, first=U * 8), FAR), near.FETCHES, "unit 1"),
    "beyond the envelope": (lambda: made(attrs.evolve(FETCH, offset=16), FAR), near.FETCHES, "of the 16"),
    "in front of the envelope": (lambda: made(attrs.evolve(FETCH, offset=-16), FAR), near.FETCHES, "bytes -16"),
    "more than a block may have": (lambda: made(own_bytes=240 << 10), program.ENVELOPE, "245760 shared bytes"),
    "more than the units have together": (lambda: crowded(), program.RESIDENT, "units do not fit"),
}  # fmt: skip


def without_slices(one: Program) -> Program:
    scale = one.kernels["scale"]
    plain = attrs.evolve(scale, choice=attrs.evolve(scale.choice, slices=()), sliced=())
    return attrs.evolve(one, kernels={"scale": plain})


def crowded() -> Program:
    """Two units on a multiprocessor would have room for what they share, and have not for what each keeps."""
    (launch,) = launches(made().body)
    envelope = Envelope(132 * 2, 32, own_bytes=128 << 10, cooperative=True)
    return attrs.evolve(made(), body=(attrs.evolve(launch, envelope=envelope),))


@pytest.mark.parametrize("case", BROKEN)
def test_what_was_not_fetched_is_not_read(case: str) -> None:
    make, law, place = BROKEN[case]
    refused(lambda: verify_program(make(), H200), law, place, "program")
