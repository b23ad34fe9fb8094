"""Storage planning: nothing that is alive at the same time shares a byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tilewright.ir.expr import const
from tilewright.ir.program import Envelope, GridControl, HostCopy, HostIf, HostLoop, HostStep, Launch
from tilewright.planning.storage import ALIGNMENT, lifetimes, pack_by_lifetime

items = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 10)).map(lambda x: (x[0], x[1], x[1] + x[2])),
    max_size=30,
)


@given(items)
def test_values_alive_together_do_not_overlap(values: list[tuple[int, int, int]]) -> None:
    offsets, total = pack_by_lifetime(values)
    for i, (size, first, last) in enumerate(values):
        assert offsets[i] % ALIGNMENT == 0
        assert offsets[i] + size <= total
        for j in range(i):
            other, born, died = values[j]
            if born <= last and first <= died and size and other:
                assert offsets[i] + size <= offsets[j] or offsets[j] + other <= offsets[i]


def test_dead_values_make_room() -> None:
    chain = [(1000, i, i + 1) for i in range(50)]
    _, total = pack_by_lifetime(chain)
    assert total == 2 * 1024, "a chain needs the room of two values"


def copy(source: str, target: str) -> HostCopy:
    return HostCopy(source, target)


def life(steps: list[HostStep], name: str) -> tuple[int, int]:
    found = lifetimes(steps)[name]
    return found.first, found.last


def test_a_branch_reads_its_condition_when_it_is_taken() -> None:
    steps: list[HostStep] = [copy("x", "c"), copy("x", "a"), HostIf("c", (copy("a", "y"),), (copy("x", "y"),))]
    assert life(steps, "c") == (0, 2)


def test_a_loop_reads_its_condition_before_every_trip() -> None:
    inner = HostLoop("j", const(3), "d", (copy("a", "b"),))
    steps: list[HostStep] = [copy("x", "c"), copy("x", "d"), HostLoop("i", const(5), "c", (inner,)), copy("b", "y")]
    end = lifetimes(steps)["b"].last - 1  # the last step of the loop; the copy of b comes after it
    assert life(steps, "c") == (0, end)
    assert life(steps, "d") == (1, end)


def test_a_launch_reads_the_conditions_of_its_control() -> None:
    grid = GridControl("k", const(4), "c", (), ())
    steps: list[HostStep] = [copy("x", "c"), copy("x", "a"), Launch("l", Envelope(1), (grid,))]
    assert life(steps, "c") == (0, 2)
