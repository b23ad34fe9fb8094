"""Top K with measuring: the quickest wins, failures are left out and told; without the option nothing is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest

from tilewright.config import Config
from tilewright.config.binding import bind
from tilewright.errors import InputError
from tilewright.frontend import load
from tilewright.ir.choice import TileChoice, undominated
from tilewright.ir.group import Group
from tilewright.ir.program import Envelope
from tilewright.planning.session import Session
from tilewright.planning.trial import Failure, Samples
from tilewright.plugins.manager import Registry
from tilewright.testing import conformance
from tilewright.testing.corpus import corpus

Answer = Callable[[int, TileChoice], Samples | Failure]


class Bench:
    """A kernel of the corpus with many choices, whose measurements are planted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Sequence[TileChoice]] = []
        self.answer: Answer = lambda number, choice: Samples((1.0 / (1 + number),))
        monkeypatch.setattr(Session, "measure", self._measure)

    def _measure(self, group: Group, choices: Sequence[TileChoice]) -> list[Samples | Failure]:
        self.asked.append(choices)
        return [self.answer(*item) for item in enumerate(choices)]

    def propose(self, target: str = "cpu:x86-64-v3", plan: bool = False, **options: Any) -> tuple[Any, ...]:
        """The session, and the choices of the first kernel."""
        config = Config(target=target, slots={"propose": "roller"}, options={"roller": options})
        settings = bind(config, Registry(strict=True))
        module = load(next(x for x in corpus("float32") if "matmul" in x.name.lower()).model)
        session = conformance.session_of(settings, module)
        group = session.connect(module.main.body).groups[0]
        if plan:
            session.plan(group)
        return session, group, session.propose(group)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_the_model_decides_unless_the_option_is_set(bench: Bench) -> None:
    _, _, choices = bench.propose()
    assert not bench.asked
    assert not any("measured" in x.why for x in choices)
    assert [x.cost for x in choices] == sorted(x.cost for x in choices)


def test_the_quickest_comes_first_and_the_rest_as_it_was(bench: Bench) -> None:
    _, _, before = bench.propose()
    _, _, after = bench.propose(measure=3)
    (best,) = bench.asked
    assert len(best) == 3
    assert best[0] == before[0]
    # The planted times fall: the third was measured quickest.
    assert [x.params for x in after[:3]] == [x.params for x in best[::-1]]
    assert [x.cost for x in after[:3]] == [1 / 3, 1 / 2, 1]
    assert after[0].why == f"measured 333333.3 µs, predicted {best[2].cost * 1e6:.1f} µs; {best[2].why}"
    assert after[3:] == tuple(x for x in before if x not in best)


def test_the_best_by_the_model_are_measured(bench: Bench) -> None:
    """Those that are worse than another in every respect too: the model may err."""
    _, _, before = bench.propose(topk=2)
    _, _, after = bench.propose(topk=2, measure=12)
    (best,) = bench.asked
    assert len(best) == len({(x.recipe, x.params) for x in best}) == 12
    assert [x.cost for x in best] == sorted(x.cost for x in best)
    assert undominated(list(best)) != best
    others = [x for x in before if x not in best]
    assert all(x.cost >= best[-1].cost for x in others)
    assert len(after) == 12 + len(others)


def test_a_measured_choice_costs_the_median(bench: Bench) -> None:
    bench.answer = lambda number, choice: Samples((9.0, 1.0, 2.0))
    assert bench.propose(measure=1)[2][0].cost == 2.0


def test_a_failure_is_left_out_and_told(bench: Bench) -> None:
    long = "It ended with signal SIGSEGV.\nIt last printed: " + "word " * 100
    bench.answer = lambda n, choice: Failure(long) if n == 1 else Samples((1.0 + n,))
    session, group, choices = bench.propose(measure=3, plan=True)
    _, left_out, _ = bench.asked[0]
    assert left_out.params not in [x.params for x in choices]
    (decision,) = [x for x in session.record.decisions if x.slot == "propose" and x.subject == group.name]
    assert decision.why == choices[0].why
    assert f"; 1 of 3 could not be measured: {left_out.recipe} " in decision.why
    assert decision.why.count("SIGSEGV") == 1
    assert "\n" not in decision.why
    assert len(decision.why) < 600
    assert "could not" not in "".join(x.why for x in choices[1:])


def test_where_all_fail_the_error_names_them(bench: Bench) -> None:
    bench.answer = lambda n, choice: Failure("one reason" if n else "another reason")
    with pytest.raises(InputError) as caught:
        bench.propose(measure=4)
    text = str(caught.value)
    first, second, *_ = bench.asked[0]
    sizes = " ".join(f"{name}={size}" for name, size in first.params)
    assert f"{first.recipe} {sizes}: another reason" in text
    assert f"{second.recipe} " in text
    assert "and 2 more: one reason" in text
    assert all(x in text for x in ("none of the 4", "cpu:x86-64-v3", "Set measure = 0"))


def test_a_request_with_limits_is_not_measured(bench: Bench) -> None:
    session, group, _ = bench.propose(measure=2)
    assert len(bench.asked) == 1
    limited = attrs.evolve(session.request(), envelope=Envelope(1, 1))
    found = session.propose(group, limited)
    assert len(bench.asked) == 1
    assert found
    assert not any("measured" in x.why for x in found)


def test_equal_kernels_are_measured_once(bench: Bench) -> None:
    session, group, choices = bench.propose(measure=2)
    assert session.propose(attrs.evolve(group, name="another")) == choices
    assert len(bench.asked) == 1
