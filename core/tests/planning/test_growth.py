"""Planning an unrolled recurrence takes time in proportion to its steps."""

from __future__ import annotations

import time

import pytest

from tilewright.frontend import load
from tilewright.planning.connect import epilogue
from tilewright.planning.storage import pack_by_lifetime
from tilewright.rewrites.movement import read_through_movements
from tilewright.testing.models.net import Net


def visits(steps: int, absorb: bool, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a connector asks for the groups that a group reads from."""
    net = Net("recurrence")
    x = cell = net.normal("x", 1, 8)
    weights = net.weight(8, 8)
    for _ in range(steps):
        gate = net.op("Sigmoid", net.op("MatMul", x, weights))
        cell = net.op("Add", net.op("Mul", gate, cell), net.op("Tanh", net.op("MatMul", x, weights)))
        x = net.op("Mul", net.op("Tanh", cell), net.op("Sigmoid", net.op("MatMul", x, weights)))
    region = read_through_movements(load(net.case({"y": x}).model).main.body)
    count = 0
    below = epilogue._Connector._below

    def counted(self: epilogue._Connector, number: int) -> object:
        nonlocal count
        count += 1
        return below(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(epilogue._Connector, "_below", counted)
        epilogue._Connector(region, absorb)
    return count


@pytest.mark.parametrize("absorb", [False, True])
def test_a_connector_looks_at_few_kernels_for_each_operator(absorb: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (visits(steps, absorb, monkeypatch) for steps in (20, 80))
    assert 0 < many <= 4.2 * few


def test_values_are_packed_in_seconds() -> None:
    """Each pair of them was compared in Python: ten times as long."""
    count = 20_000
    start = time.process_time()
    _, total = pack_by_lifetime([(1000, i, i + 1) for i in range(count)])
    assert total == 2 * 1024
    assert time.process_time() - start < 10
