"""Packing gathers in boxes, so that index arrays stay small beside the weights."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tilewright.rewrites import pack


@pytest.mark.parametrize("shape", [(), (0,), (5,), (100,), (3, 4, 5), (1, 2, 40), (2, 30, 1), (7, 1, 9, 2), (2, 0, 3)])
def test_boxes_cover_every_element_once(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "CHUNK", 16)
    seen = np.zeros(shape, int)
    for block in pack._blocks(shape) if shape else [()]:
        assert math.prod(part.stop - part.start for part in block) <= 16
        seen[block] += 1
    assert (seen == 1).all()
