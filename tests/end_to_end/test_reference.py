"""Our reference for control flow beside ONNX Runtime."""

from __future__ import annotations

import pytest

from tests.onnx_runtime import expected
from tilewright.testing.control import control_case
from tilewright.testing.fuzz import difference
from tilewright.testing.reference import Reference


@pytest.mark.sampled(2)
@pytest.mark.parametrize("start", range(0, 400, 100))
def test_the_reference_agrees_with_onnx_runtime(start: int) -> None:
    for seed in range(start, start + 100):
        case = control_case(seed, lengths=(1, 2, 5))  # a scan over nothing kills ONNX Runtime's process
        found = Reference(18).graph(case.model.graph, case.feeds)
        for name, ours, theirs in zip(case.model.graph.output, found, expected(case.model, case.feeds), strict=True):
            assert not difference(f"{seed} {name.name}", ours, theirs)
