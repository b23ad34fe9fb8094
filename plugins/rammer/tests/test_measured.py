"""`measure = true`: what is measured to be the quickest is kept, whatever was predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import tilewright
from tilewright.compiler import plan_model
from tilewright.config import load_config
from tilewright.config.binding import bind
from tilewright.errors import InputError
from tilewright.ir.program import launches
from tilewright.ir.verify import verify_program
from tilewright.planning.session import Session
from tilewright.planning.trial import Failure, Samples
from tilewright.plugins.manager import Registry
from tilewright.testing.cases import Case, case, steps

RNG = np.random.default_rng(2)


def branches() -> Case:
    """Two products side by side, and what both become."""
    text = "a = MatMul x u; b = MatMul x v; c = Softmax a; d = Softmax b; y = Add c d"
    weights = {n: RNG.standard_normal((48, 48)).astype(np.float32) for n in "uv"}
    return case("branches", steps(text), {"x": RNG.standard_normal((5, 48)).astype(np.float32)}, weights=weights)


def scheduled(target: str) -> tuple[int, list[Any]]:
    """How many launches there are, and what the decision record says of them."""
    settings = bind(
        load_config({"target": target, "slots": {"schedule": "rammer"}, "options": {"rammer": {"measure": True}}}),
        Registry(),
    )
    plan = plan_model(branches().model, settings)
    verify_program(plan.program)
    return len(launches(plan.program.steps)), [x for x in plan.decisions if x.slot == "schedule"]


@pytest.mark.parametrize(("apart", "merged"), [(2.0, 1.0), (1.0, 2.0)])
def test_the_quickest_is_kept(apart: float, merged: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(_: Session, planned: Any, variants: Any) -> list[Samples]:
        assert len(variants[0]) == len(planned) > 1
        assert all(len(x) < len(planned) for x in variants[1:])
        return [Samples((x * 1e-6,)) for x in (apart, *[merged] * (len(variants) - 1))]

    monkeypatch.setattr(Session, "measure_launches", measured)
    count, decisions = scheduled("cuda:h200")
    assert (count == 1) == (merged < apart)
    assert all("measured: apart" in x.why for x in decisions)


def test_what_cannot_be_measured_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = [Failure("there is no device")] * 3
    monkeypatch.setattr(Session, "measure_launches", lambda *_: failed)
    with pytest.raises(InputError, match=r"\[options\.rammer\] measure .* there is no device"):
        scheduled("cuda:h200")


def test_on_this_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    one = branches()
    seen: list[Any] = []
    measure = Session.measure_launches

    def recorded(session: Session, planned: Any, variants: Any) -> Any:
        seen.extend(measure(session, planned, variants))
        return seen

    monkeypatch.setattr(Session, "measure_launches", recorded)
    options = {"slots": {"schedule": "rammer"}, "options": {"rammer": {"measure": True}}}
    made = tilewright.compile(one.model, target="cpu", config=options, threads=2, cache=False)
    assert len(seen) == 3
    assert all(isinstance(x, Samples) and x.median > 0 for x in seen)
    (found,) = made.run(None, dict(one.feeds))
    expected: Any = ReferenceEvaluator(one.model).run(None, dict(one.feeds))
    np.testing.assert_allclose(found, expected[0], rtol=1e-5)
