"""Storage planning: nothing that is alive at the same time shares a byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tilewright.planning.storage import ALIGNMENT, pack_by_lifetime

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
