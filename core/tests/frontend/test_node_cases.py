"""ONNX's node tests through load, legalisation and the tensor interpreter."""

from __future__ import annotations

from collections import Counter

import pytest

from tilewright.interpret.tensor import interpret
from tilewright.testing.node_cases import Case, cases, run_case, summary, table

# What is known to be covered; a rule that stops working shows as fewer.
LEAST_NATIVE = 1460
LEAST_SPECIALISED = 280


def test_no_node_test_of_onnx_gets_a_wrong_answer(
    pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = [run_case(case, interpret) for case in cases()]
    counts = Counter(x.kind for x in outcomes)
    writer = pytestconfig.get_terminal_writer()
    with capsys.disabled():
        writer.line()
        if pytestconfig.get_verbosity() > 1:
            writer.line(table(outcomes))
        writer.line(f"ONNX node tests: {summary(outcomes)}")
    assert [f"{x.name}: {x.detail}" for x in outcomes if x.kind == "wrong"] == []
    assert counts["native"] >= LEAST_NATIVE
    assert counts["specialised"] >= LEAST_SPECIALISED


def test_a_loop_whose_shapes_follow_from_the_trip_needs_its_trip_count_alone() -> None:
    """The state stays open: that its values decide no shape is known once the number of the trip is."""
    case = next(c for c in cases() if c.name == "test_loop11")
    assert run_case(case, interpret).kind == "specialised"


def test_a_declined_case_names_its_node_and_a_remedy() -> None:
    case = next(c for c in cases() if c.name == "test_nonmaxsuppression_suppress_by_IOU")
    outcome = run_case(case, interpret)
    assert outcome.kind == "declined"
    assert "NonMaxSuppression node 'selected_indices' (opset " in outcome.detail
    assert "depends on the data" in outcome.detail


@pytest.mark.parametrize("damage", ["value", "shape", "dtype"])
def test_a_wrong_answer_is_noticed(damage: str) -> None:
    case = next(c for c in cases() if c.name == "test_add")

    def broken(module: object, inputs: object) -> list[object]:
        (out,) = interpret(module, inputs)  # type: ignore[arg-type]
        return [{"value": out + 0.01, "shape": out[None], "dtype": out.astype("float64")}[damage]]

    assert run_case(case, broken).kind == "wrong"  # type: ignore[arg-type]


def test_a_crash_counts_as_wrong() -> None:
    case: Case = next(c for c in cases() if c.name == "test_add")

    def crashing(module: object, inputs: object) -> list[object]:
        raise ZeroDivisionError("no")

    assert run_case(case, crashing).detail == "ZeroDivisionError: no"  # type: ignore[arg-type]
