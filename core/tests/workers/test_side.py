"""Workers side by side: each request answered once, what a crash costs, and nothing left by an interrupt."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.tests.workers.test_workers import FOLDER, gone
from tilewright.workers import Post, WorkerError, replies
from tilewright.workers.idle import dismiss_all


@pytest.fixture(autouse=True)
def _tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(FOLDER)
    yield
    dismiss_all()


def test_replies_come_in_the_order_of_the_requests() -> None:
    answers = replies(Post("tasks:echo", "argument"), list(range(7)), 2)
    assert [x["request"] for x in answers] == list(range(7))
    assert {x["argument"] for x in answers} == {"argument"}
    assert len({x["pid"] for x in answers}) <= 2
    assert replies(Post("tasks:echo", None), [], 2) == []


def test_there_are_never_more_workers_than_requests() -> None:
    assert len({x["pid"] for x in replies(Post("tasks:echo", None), ["one"], 64)}) == 1


def test_workers_work_side_by_side(tmp_path: Path) -> None:
    """Neither answers before the other has its request too."""
    assert len(set(replies(Post("tasks:meet", str(tmp_path), 60), [2, 2], 2))) == 2


def test_a_crash_costs_the_request_of_that_worker() -> None:
    answers = replies(Post("tasks:act", None), ["die", "ok", "input error", "ok"], 2)
    assert [x.kind if isinstance(x, WorkerError) else x for x in answers] == ["died", None, "error", None]


def test_workers_that_cannot_start_answer_nothing() -> None:
    answers = replies(Post("tasks:broken", None), ["a", "b"], 1)
    assert all(isinstance(x, WorkerError) and "cannot start" in str(x) for x in answers)


def test_an_interrupt_ends_them_all(tmp_path: Path) -> None:
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.path.insert(0, {FOLDER!r})\n"
        "from tilewright.workers import Post, replies\n"
        f"replies(Post('tasks:meet', {str(tmp_path)!r}), [3, 3, 3], 2)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as running:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert b"KeyboardInterrupt" in said
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    assert all(map(gone, workers))
