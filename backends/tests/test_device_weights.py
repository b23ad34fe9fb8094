"""One copy of a weight on the device for all programs that read it."""

from __future__ import annotations

import numpy as np

from tilewright_backends.device_weights import DeviceWeights


def test_programs_share_a_copy_until_the_last_has_given_it_back() -> None:
    made: list[int] = []
    freed: list[int] = []

    def make(host: np.ndarray) -> int:
        made.append(host.ctypes.data)
        return 1000 + len(made)

    both = np.arange(8, dtype=np.float32)
    first, second = both[:4], both[4:]
    weights = DeviceWeights()
    assert [weights.take(x, make) for x in (first, second, both[:4], both)] == [1001, 1002, 1001, 1003]
    assert len(made) == 3
    weights.give_back(first, freed.append)
    assert freed == []
    weights.give_back(first, freed.append)
    weights.give_back(second, freed.append)
    assert freed == [1001, 1002]
    assert weights.take(first, make) == 1004
