"""Choices for an envelope: few tasks and few threads, as a scheduler asks for where operators stand side by side."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

from tilewright.config.binding import bind
from tilewright.config.schema import Config
from tilewright.frontend import load
from tilewright.ir.group import Group
from tilewright.ir.program import Envelope
from tilewright.planning.requests import Request
from tilewright.planning.session import Session
from tilewright.plugins.manager import Registry
from tilewright.testing import conformance
from tilewright.testing.cases import case, steps


def session_and_group() -> tuple[Session, Group]:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((256, 1024)).astype(np.float32)}
    one = case("row", steps("y = MatMul x w"), {"x": rng.standard_normal((1, 256)).astype(np.float32)}, weights=weights)
    module = load(one.model)
    session = conformance.session_of(bind(Config(target="cuda:h200", slots={"propose": "roller"}), Registry()), module)
    (group,) = session.connect(module.main.body).groups
    return session, group


@pytest.mark.parametrize(("units", "threads"), [(132, 1024), (13, 640), (13, 256), (5, 1024)])
def test_all_choices_fit(units: int, threads: int) -> None:
    session, group = session_and_group()
    envelope = Envelope(units, threads, 255, session.device.shared_per_block)
    choices = session.propose(group, attrs.evolve(Request(session), envelope=envelope))
    assert choices
    assert all(x.resources.tasks <= units and x.resources.threads <= threads for x in choices)
    assert all(x.cost < 1e-3 for x in choices), "what puts others last is no part of the prediction"
    assert [x.cost for x in choices] == sorted(x.cost for x in choices)


def test_where_none_fits_the_others_are_given() -> None:
    session, group = session_and_group()
    choices = session.propose(group, attrs.evolve(Request(session), envelope=Envelope(1, 32, 255, 0)))
    assert choices
    assert all(x.cost < 1e-3 for x in choices)


def test_without_one_many_tasks_are_best() -> None:
    session, group = session_and_group()
    assert session.propose(group)[0].resources.tasks > 13
