"""How trials use workers: who builds, who measures, when a fresh worker comes, and when the device is held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tilewright.ir.choice import Resources, TileChoice
from tilewright.ir.expr import Load, Var, const
from tilewright.ir.group import Group
from tilewright.ir.ops import Access, Axis, TensorOp, Write, value
from tilewright.planning import trial
from tilewright.planning.trial import Failure, Limits
from tilewright.workers import BusyError, Reply, WorkerError


def group() -> Group:
    x, y, i = value("x", "float32", (8,)), value("y", "float32", (8,)), Var("i")
    op = TensorOp("y", (Axis("i", const(8)),), (Access(x, (i,)),), (Load(0, "float32"),), (Write(y, (i,)),))
    return Group("y", (op,), (y,))


CHOICES = [TileChoice("test", (("size", size),), Resources(1)) for size in range(4)]


class Fakes:
    """Workers that do nothing but tell.

    Attributes:
        told: what happened, in order.
        wrong: what the builder or the measuring worker raises, by (action, number of the choice).
    """

    def __init__(self) -> None:
        self.told: list[str] = []
        self.wrong: dict[tuple[str, int], Exception] = {}
        self.started = 0
        self.loaded = -1

    def replies(self, post: Any, requests: Any, count: int) -> list[Any]:
        self.told.append(f"build {len(requests)} by {count}")
        return [self.wrong.get(("build", n), {"folder": x.get("folder")}) for n, x in enumerate(requests)]

    @contextmanager
    def turn(self, kind: str, seconds: float) -> Iterator[None]:
        if ("turn", self.loaded) in self.wrong:
            raise self.wrong["turn", self.loaded]
        self.told.append(f"take {kind}")
        yield
        self.told.append(f"leave {kind}")

    def post(self, *_: Any) -> Any:
        return self

    def take(self) -> Any:
        self.started += 1
        return self

    def keep(self, worker: Any) -> None:
        assert worker is self
        self.told.append("keep")

    def call(self, request: Any) -> Any:
        action = request["action"]
        if action == "load":
            assert Path(request["folder"]).is_dir()
            self.loaded = int(Path(request["folder"]).name)
        if (action, self.loaded) in self.wrong:
            raise self.wrong[action, self.loaded]
        self.told.append(f"{action} {self.loaded}")
        return Reply({"seconds": [float(self.loaded)]}, 0)

    def close(self) -> None:
        self.told.append("close")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    found = Fakes()
    monkeypatch.setattr(trial, "replies", found.replies)
    monkeypatch.setattr(trial, "Post", found.post)
    monkeypatch.setattr(trial, "turn", found.turn)
    return found


def measured(choices: list[TileChoice]) -> list[Any]:
    return trial.ask("measure", "cuda:h200", group(), choices, frozenset(), Limits(builders=3))


def test_all_are_built_before_one_worker_measures_them_in_turns(fakes: Fakes) -> None:
    assert [x["seconds"] for x in measured(CHOICES[:2])] == [[0.0], [1.0]]
    rounds = [[f"load {n}", "take cuda", f"measure {n}", "leave cuda"] for n in range(2)]
    assert fakes.told == ["build 2 by 3", *rounds[0], *rounds[1], "rest 1", "keep"]
    assert fakes.started == 1


def test_building_alone_starts_no_worker_to_measure_and_leaves_no_program(fakes: Fakes) -> None:
    answers = trial.ask("build", "cuda:h200", group(), CHOICES, frozenset(), Limits(builders=2))
    assert [x["folder"] for x in answers] == [None] * 4
    assert fakes.told == ["build 4 by 2"]
    assert fakes.started == 0


@pytest.mark.parametrize(
    ("action", "error", "workers"),
    [
        ("build", WorkerError("gone", kind="died"), 1),
        ("load", WorkerError("no such device", kind="error", exit_code=2), 1),
        ("load", WorkerError("an illegal address", kind="error", exit_code=3), 2),
        ("measure", WorkerError("gone", kind="died"), 2),
        ("measure", WorkerError("too long", kind="timeout"), 2),
        ("turn", BusyError("others measure"), 1),
    ],
)
def test_what_fails_costs_one_choice(fakes: Fakes, action: str, error: Exception, workers: int) -> None:
    fakes.wrong[action, 1] = error
    answers = measured(CHOICES)
    assert answers[1] == Failure(str(error))
    assert [x["seconds"] for n, x in enumerate(answers) if n != 1] == [[0.0], [2.0], [3.0]]
    assert fakes.started == workers
    assert fakes.told.count("close") == workers - 1
    assert fakes.told.count("keep") == 1


def test_a_worker_that_cannot_rest_is_not_kept(fakes: Fakes) -> None:
    fakes.wrong["rest", 0] = WorkerError("gone", kind="died")
    assert [x["seconds"] for x in measured(CHOICES[:1])] == [[0.0]]
    assert fakes.told[-1] == "close"


def test_where_nothing_is_built_nothing_is_measured(fakes: Fakes) -> None:
    fakes.wrong = {("build", n): WorkerError("no compiler", kind="error") for n in range(4)}
    assert measured(CHOICES) == [Failure("no compiler")] * 4
    assert fakes.started == 0


def test_builders_are_as_many_as_processors_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5})
    assert Limits().builders == 3
