"""The corpus: its references agree with the interpreter, so a difference is the recipe's."""

from __future__ import annotations

import pytest

from tilewright.frontend import load
from tilewright.interpret.tensor import interpret
from tilewright.testing.cases import Case
from tilewright.testing.conformance import difference, reference
from tilewright.testing.corpus import corpus

CASES = [case for dtype in ("float32", "float16") for case in corpus(dtype)]


def test_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reference_and_interpreter_agree(case: Case) -> None:
    module = load(case.model)
    found = interpret(module, [case.feeds[name] for name in module.input_names])
    wanted = reference(case)
    assert [difference(a, b) for a, b in zip(found, wanted, strict=True)] == [""] * len(wanted)
