"""The fuzzer: it is repeatable, reaches many operators, finds planted bugs, and finds nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tilewright.frontend.legalize import movement
from tilewright.frontend.legalize.node import Node
from tilewright.frontend.scans import Scans
from tilewright.interpret import evaluate
from tilewright.interpret.tensor import interpret
from tilewright.testing.fuzz import fuzz
from tilewright.testing.fuzz_graphs import CONTROL, draw_graph


def test_a_seed_gives_one_graph() -> None:
    first, again = draw_graph(7), draw_graph(7)
    assert first.model.SerializeToString() == again.model.SerializeToString()
    assert draw_graph(8).model.SerializeToString() != first.model.SerializeToString()


def test_random_graphs_agree_with_the_reference() -> None:
    report = fuzz(range(1000), interpret)
    assert report.failures == []
    assert not report.declined
    assert len(report.operators) >= 100
    assert min(report.operators[kind] for kind in CONTROL) >= 100


def wrong_function(patch: pytest.MonkeyPatch) -> None:
    """The hyperbolic tangent is a sine."""
    functions = dict(evaluate._FUNCTIONS)
    patch.setattr(evaluate, "_FUNCTIONS", {**functions, "tanh": functions["sin"]})


def shifted_slice(patch: pytest.MonkeyPatch) -> None:
    """A slice begins one element late, where that is inside."""
    true = movement.slice_range

    def shifted(start: int, end: int, step: int, extent: int) -> tuple[int, int]:
        first, count = true(start, end, step, extent)
        inside = max(first, first + (count - 1) * step) + 1 < extent
        return first + inside, count

    patch.setattr(movement, "slice_range", shifted)


def ignored_attribute(patch: pytest.MonkeyPatch) -> None:
    """Cumulative sums are never exclusive."""
    true = Node.attr

    def ignoring(node: Node, name: str, default: Any = None) -> Any:
        return default if name == "exclusive" else true(node, name, default)

    patch.setattr(Node, "attr", ignoring)


def forward_scan(patch: pytest.MonkeyPatch) -> None:
    """Rows that a scan collects backwards are left in the order of the trips."""
    true = Scans._turned
    patch.setattr(Scans, "_turned", lambda scan, rows, reverse, axis: true(scan, rows, False, axis))


@pytest.mark.parametrize("plant", [wrong_function, shifted_slice, ignored_attribute, forward_scan])
def test_a_planted_bug_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert any(fuzz([seed], interpret).failures for seed in range(1000))

