"""Workers that wait for the next request: who gets them, and that none is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from core.tests.workers.test_workers import FOLDER, gone
from tilewright.workers import Post, WorkerError, idle

ECHO = Post("tasks:echo", "argument")


@pytest.fixture(autouse=True)
def _tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(FOLDER)
    yield
    idle.dismiss_all()


def served(post: Post) -> int:
    """The number of the process that answers a request and is kept."""
    worker = post.take()
    reply = worker.call("request").value
    assert reply["argument"] == post.argument
    post.keep(worker)
    return int(reply["pid"])


def test_the_next_request_finds_the_worker_of_the_last() -> None:
    first = served(ECHO)
    assert served(ECHO) == first
    assert served(Post("tasks:echo", "another")) != first


def test_a_worker_serves_one_caller_at_a_time() -> None:
    served(ECHO)
    one, other = ECHO.take(), ECHO.take()
    assert one.call(1).value["pid"] != other.call(1).value["pid"]
    one.close()
    other.close()


def test_other_surroundings_get_another_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    first = served(ECHO)
    monkeypatch.setenv("TILEWRIGHT_TEST", "1")
    assert served(ECHO) != first


def test_a_worker_outlives_the_thread_that_asked_for_it() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(served(ECHO)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert served(ECHO) == found[0]


def test_a_worker_that_nobody_asks_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "_SECONDS", 0.05)
    pid = served(ECHO)
    deadline = time.monotonic() + 30
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gone(pid)
    assert served(ECHO) != pid


def test_none_is_left_when_the_interpreter_ends() -> None:
    script = (
        f"import sys; sys.path.insert(0, {FOLDER!r})\n"
        "from tilewright.workers import Post\n"
        "post = Post('tasks:echo', None)\n"
        "worker = post.take()\n"
        "print(worker.call(1).value['pid'])\n"
        "post.keep(worker)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert gone(int(done.stdout))


def test_a_child_does_not_take_its_parents_workers() -> None:
    pid = served(ECHO)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, str(served(ECHO)).encode())
            idle.dismiss_all()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    found = int(os.read(reading, 100))
    os.close(reading)
    os.close(writing)
    assert found != pid
    assert served(ECHO) == pid


def test_starting_may_fail() -> None:
    with pytest.raises(WorkerError, match="cannot start"):
        Post("tasks:broken", None).take()
