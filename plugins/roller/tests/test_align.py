"""Aligned sizes: multiples of the execution unit, whole transactions, little padding, and never nothing."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.device import load_device
from tilewright.ir.expr import const
from tilewright.recipes import Constraint, Match, Operand, Parameter, Usage, Work
from tilewright_roller.align import ENOUGH, WASTE, ladder, waste

H200 = load_device("h200")


def match_of(extent: int, parameter: Parameter, along: str = "", run: int = 1, size: int = 4) -> Match:
    """A kernel that reads `extent` elements, cut by one parameter of role m."""
    source = Operand("x", size, extent, ("m",), along, 1 if along else 0, run)
    tiles = {parameter.level: {"m": parameter.var}} if parameter.level else {}
    work = Work(const(extent), {})
    return Match("r", {"m": ("i",)}, {"m": extent}, (parameter,), (), Usage(const(1)), work, (source,), tiles)


@given(
    extent=st.integers(1, 100_000),
    align=st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
    doublings=st.integers(0, 6),
    level=st.sampled_from(["register", "shared", "block"]),
)
def test_sizes_are_aligned_and_waste_little(extent: int, align: int, doublings: int, level: str) -> None:
    low, high = align, align << doublings
    parameter = Parameter("m.tile", tuple(align << i for i in range(doublings + 1)), align, "m", level)
    sizes = ladder(match_of(extent, parameter), parameter, H200)
    assert sizes
    assert list(sizes) == sorted(set(sizes))
    assert all(low <= x <= high and x % align == 0 for x in sizes)
    above = [x for x in sizes if x > 8 * align]
    assert all(b >= 1.4 * a for a, b in zip(above, above[2:], strict=False))  # two for each doubling
    # No size but the last holds the whole axis: a larger one would hold padding alone.
    assert all(x < extent for x in sizes[:-1])
    worst = max(waste(extent, x) for x in sizes)
    if worst > WASTE[0]:
        # Relaxed, so fewer sizes than wanted, or none, met the stricter bound.
        step = next((e for e in WASTE if worst <= e), None)
        stricter = [e for e in WASTE if step is None or e < step]
        under = [x for x in sizes if stricter and waste(extent, x) <= stricter[-1]]
        assert len(under) < ENOUGH


@given(extent=st.integers(512, 4096), size=st.sampled_from([1, 2, 4, 8]))
def test_tiles_along_memory_move_whole_transactions(extent: int, size: int) -> None:
    parameter = Parameter("m.block", tuple(1 << i for i in range(10)), 1, "m", "shared")
    sizes = ladder(match_of(extent, parameter, "m", extent, size), parameter, H200)
    sector = H200.level("l2").transaction
    assert all(x >= extent or x * size % sector == 0 for x in sizes)


def test_rows_that_no_transaction_divides() -> None:
    # 165 floats are 660 bytes: one block in eight is of whole sectors, too few to choose from.
    parameter = Parameter("m.block", (1, 2, 4, 5, 10, 20), 1, "m", "shared")
    match = match_of(165 * 20, parameter, "m", 165 * 20)
    match = attrs.evolve(match, tiles={"shared": {"m": parameter.var * 165}})
    assert ladder(match, parameter, H200) == (1, 2, 3, 4, 5, 10, 20)


def test_sizes_meet_the_constraints_that_concern_them_alone() -> None:
    parameter = Parameter("lanes", (1, 2, 4, 8, 16), 1, "m", "block")
    powers = Constraint(const(16) % parameter.var, const(0), "a power of two")
    match = attrs.evolve(match_of(25, parameter), constraints=(powers,))
    # 8 lanes for 25 steps pad by 7, 16 also; with ε = 0.2 there would be 1 and 2 (and 4) only.
    assert ladder(match, parameter, H200) == (1, 2, 4, 8, 16)


def test_registers_are_not_filled_by_transactions_of_memory() -> None:
    parameter = Parameter("m.thread", (2, 4, 8), 2, "m", "register")
    assert ladder(match_of(1024, parameter, "m", 1024), parameter, H200) == (2, 4, 6, 8)


def test_an_awkward_extent_by_hand() -> None:
    # 11 in multiples of 4: 4 and 12 pad to 12 (9 %), 8 to 16 (45 %). With ε up to 0.4 there are two sizes, with 0.6
    # there is 8 too.
    parameter = Parameter("m.block", (4, 8, 12, 16), 4, "m", "register")
    assert ladder(match_of(11, parameter), parameter, H200) == (4, 8, 12)
    # 1000 in multiples of 8: its own divisors and rounder sizes that pad at most a sixteenth.
    parameter = Parameter("m.block", (8, 16, 32, 64, 128, 256), 8, "m", "register")
    assert ladder(match_of(1000, parameter), parameter, H200) == (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128, 200, 256)


def test_a_parameter_that_cuts_nothing_keeps_its_candidates() -> None:
    parameter = Parameter("stages", (2, 3, 4))
    assert ladder(match_of(64, parameter), parameter, H200) == (2, 3, 4)


@pytest.mark.parametrize(("extent", "tile", "wanted"), [(100, 25, 0.0), (100, 64, 0.28), (3, 8, 5 / 3), (0, 4, 0.0)])
def test_waste(extent: int, tile: int, wanted: float) -> None:
    assert waste(extent, tile) == pytest.approx(wanted)
