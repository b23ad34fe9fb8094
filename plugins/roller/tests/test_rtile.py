"""Footprints, traffic and data-reuse scores against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np
import pytest

from tilewright.device import load_device
from tilewright.ir.expr import Var, const
from tilewright.recipes import Constraint, Match, Operand, Parameter, Usage, Work
from tilewright_roller.construct import Construction
from tilewright_roller.rtile import footprint, points, rtiles, source_of, traffic

H200 = load_device("h200")
M = N = K = 1024
MB, NB, KS, MT, NT = (Var(x) for x in ("m.block", "n.block", "k.step", "m.thread", "n.thread"))


def product(m: int = M, n: int = N, k: int = K, padding: int = 0) -> Match:
    """A matrix product of float32 with tiles in shared memory and in registers."""
    sizes = (8, 16, 32, 64, 128)
    parameters = (
        Parameter("m.block", sizes, 8, "m", "shared"),
        Parameter("n.block", sizes, 8, "n", "shared"),
        Parameter("k.step", (8, 16, 32), 8, "k", "shared"),
        Parameter("m.thread", (2, 4, 8), 2, "m", "register"),
        Parameter("n.thread", (2, 4, 8), 2, "n", "register"),
    )
    whole = [Constraint(big % small, const(0), "whole threads") for big, small in ((MB, MT), (NB, NT))]
    shared = Constraint((MB + NB) * KS * 4, const(49152), "shared memory")
    tasks = ((const(m) + MB - 1) // MB) * ((const(n) + NB - 1) // NB)
    return Match(
        recipe="test.product",
        roles={"m": ("i",), "n": ("j",), "k": ("k",)},
        extents={"m": m, "n": n, "k": k},
        parameters=parameters,
        constraints=(*whole, shared),
        usage=Usage(tasks, (MB // MT) * (NB // NT), MT * NT + 32, (MB + NB) * KS * 4),
        work=Work(const(2 * m * n * k), {"dram": const(4 * (m * k + k * n + m * n))}),
        operands=(
            Operand("a", 4, m * k, ("m", "k"), "k", 1, k, padding=padding),
            Operand("b", 4, k * n, ("n", "k"), "n", 1, n, padding=padding),
            Operand("y", 4, m * n, ("m", "n"), "n", 1, n, outside=True),
        ),
        tiles={"register": {"m": MT, "n": NT}, "shared": {"m": MB, "n": NB, "k": KS}},
    )


def columns(**params: int) -> dict[str, Any]:
    return {k.replace("_", "."): np.asarray([v], np.int64) for k, v in params.items()}


TILE = columns(m_block=64, n_block=32, k_step=16, m_thread=4, n_thread=8)


def test_footprints() -> None:
    # Shared memory holds a tile of a and one of b, the registers one of the result too.
    assert footprint(product(), "shared", TILE)[0] == (64 * 16 + 32 * 16) * 4
    assert footprint(product(), "register", TILE)[0] == (4 + 8 + 4 * 8) * 4
    # Four elements behind each of the 16 lines of either tile.
    assert footprint(product(padding=4), "shared", TILE)[0] == (64 * 16 + 32 * 16 + 2 * 4 * 16) * 4


def test_traffic() -> None:
    # Each element of a is loaded for each of the 32 tiles of columns, of b for each of the 16 of rows, y stored once.
    wanted = 4 * (M * K * (N // 32) + K * N * (M // 64) + M * N)
    assert traffic(product(), "shared", TILE, 32)[0] == wanted
    # Eight elements of k are one transaction of 32 bytes; four would move it as well.
    narrow = TILE | columns(k_step=4)
    assert traffic(product(), "shared", narrow, 32)[0] == wanted + 4 * M * K * (N // 32)


def test_edges_move_only_what_is_there() -> None:
    match = product(m=100, n=50, k=10)
    wanted = 4 * (100 * 10 * 2 + 10 * 50 * 2 + 100 * 50)
    assert traffic(match, "shared", TILE, 4)[0] == pytest.approx(wanted)


def test_an_operand_is_no_more_than_its_elements() -> None:
    match = product()
    shared = attrs.evolve(match.operands[0], elements=100)  # a broadcast: every tile reads the same hundred
    match = attrs.evolve(match, operands=(shared, *match.operands[1:]))
    assert footprint(match, "shared", TILE)[0] == (100 + 32 * 16) * 4


def test_a_strided_line_moves_what_lies_between() -> None:
    source = Operand("x", 4, 64, ("m",), "m", 3, 64)
    match = attrs.evolve(product(), operands=(source,), extents={"m": 64, "n": 1, "k": 1})
    # Points 0, 3, …, 21: 22 elements, 88 bytes, three transactions, for each of eight tiles of 8.
    eight = TILE | columns(m_block=8)
    assert traffic(match, "shared", eight, 32)[0] == 8 * 96
    # So far apart that each point has a transaction of its own.
    far = attrs.evolve(match, operands=(attrs.evolve(source, stride=100),))
    assert traffic(far, "shared", eight, 32)[0] == 64 * 32
    unknown = attrs.evolve(match, operands=(attrs.evolve(source, along="", stride=0),))
    assert traffic(unknown, "shared", eight, 32)[0] == 64 * 32


def test_levels_are_filled_from_the_next_one() -> None:
    assert source_of(product(), "register", H200).name == "shared"
    assert source_of(product(), "shared", H200).name == "l2"


def test_points_end_with_the_role() -> None:
    found = points(product(m=20), "shared", TILE)
    assert {k: v[0] for k, v in found.items()} == {"m": 20, "n": 32, "k": 16}


def test_an_rprogram() -> None:
    near, far = rtiles(product(padding=4), {k: int(v[0]) for k, v in TILE.items()})
    assert (near.level, near.shape) == ("register", {"m": 4, "n": 8, "k": 1})
    assert (far.level, far.shape, far.padding) == ("shared", {"m": 64, "n": 32, "k": 16}, {"a": 4, "b": 4})
    assert str(far) == "shared m64xn32xk16"


def test_scores_by_hand() -> None:
    """S_i = (Q(T) - Q(T'_i)) / (F(T'_i) - F(T)) for T = 32 x 16 x 8 in shared memory."""
    made = Construction(product(), H200)
    before = (32, 16, 8, 2, 2)
    wider, taller, deeper = (32, 32, 8, 2, 2), (64, 16, 8, 2, 2), (32, 16, 16, 2, 2)
    scores = made.scores("shared", [before] * 3, [wider, taller, deeper])
    # Twice the columns halve the loads of a: 1024 x 1024 x 64 elements become x 32; 16 x 8 more elements are held.
    assert scores[0] == (4 * M * K * (64 - 32)) / (4 * 16 * 8)
    # Twice the rows halve the loads of b, from 32 times to 16, for 32 x 8 more elements.
    assert scores[1] == (4 * K * N * (32 - 16)) / (4 * 32 * 8)
    # A deeper step saves nothing.
    assert scores[2] == 0


def test_a_step_that_takes_no_room() -> None:
    match = attrs.evolve(product(), tiles={"register": {"m": MT, "n": NT}, "shared": {"m": MB, "n": NB}})
    made = Construction(match, H200)
    # k.step is in no tile here: nothing is saved and nothing taken.
    assert made.scores("shared", [(32, 16, 8, 2, 2)], [(32, 16, 16, 2, 2)])[0] == 0
    held = attrs.evolve(match, operands=tuple(attrs.evolve(x, elements=1) for x in match.operands))
    scores = Construction(held, H200).scores("shared", [(32, 16, 8, 2, 2)], [(64, 16, 8, 2, 2)])
    assert scores[0] == math.inf
