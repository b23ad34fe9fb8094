"""Which kernels of many a check takes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.testing.spread import spread


@pytest.mark.parametrize(
    ("items", "most", "wanted"),
    [
        ("", 3, ""),
        ("ABC", 0, ""),
        ("ABC", 5, "ABC"),
        ("AABBCC", 3, "ABC"),  # one of each kind
        ("AAAAB", 3, "AAB"),
        ("ABCDEF", 3, "ACE"),  # more kinds than places
        ("AAAB", 2, "AB"),
    ],
)
def test_one_of_each_kind_comes_first(items: str, most: int, wanted: str) -> None:
    assert "".join(spread(items, most, str)) == wanted


def test_within_a_kind_they_lie_apart() -> None:
    assert spread(range(100), 4, lambda _: "one kind") == [0, 25, 50, 75]
    assert spread(range(9), 6, lambda x: x < 3) == [0, 1, 2, 3, 5, 7]


@given(st.lists(st.integers(0, 5)), st.integers(0, 40))
def test_kinds_have_equal_shares_as_far_as_they_go(kinds: list[int], most: int) -> None:
    items = list(enumerate(kinds))
    taken = spread(items, most, lambda item: item[1])
    assert len(taken) == min(most, len(items))
    assert taken == sorted(set(taken))
    shares = {kind: sum(k == kind for _, k in taken) for kind in kinds}
    for a, b in itertools.permutations(shares, 2):
        assert shares[a] <= shares[b] + 1 or shares[b] == kinds.count(b)
