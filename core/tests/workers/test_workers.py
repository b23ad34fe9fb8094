"""Workers: replies, limits, and nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tilewright.errors import InternalError
from tilewright.workers import Worker, WorkerError, run_tool

FOLDER = str(Path(__file__).parent)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Worker]:
    monkeypatch.syspath_prepend(FOLDER)
    return lambda task, *args, **options: Worker(f"tasks:{task}", *args, **options)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_a_worker_answers_from_another_process(start: Callable[..., Worker]) -> None:
    with start("echo", {"a": 1}) as worker:
        reply = worker.call([2, "three"])
        assert reply.value["argument"] == {"a": 1}
        assert reply.value["request"] == [2, "three"]
        assert reply.value["pid"] != os.getpid()
        assert 5 << 20 < reply.peak_bytes < 1 << 30


def test_the_environment_can_be_set(start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIABLE_OF_THIS_TEST", "ours")
    with start("echo") as worker:
        assert worker.call(None).value["variable"] == "ours"
    with start("echo", environment={"VARIABLE_OF_THIS_TEST": "the worker's"}) as worker:
        assert worker.call(None).value["variable"] == "the worker's"


def test_an_error_comes_back_and_the_worker_goes_on(start: Callable[..., Worker]) -> None:
    with start("act") as worker:
        with pytest.raises(WorkerError, match=r"The file is wrong\. Give another\.") as caught:
            worker.call("input error")
        assert (caught.value.kind, caught.value.exit_code) == ("error", 2)
        with pytest.raises(WorkerError, match="ZeroDivisionError: oops") as caught:
            worker.call("bug")
        assert (caught.value.kind, caught.value.exit_code) == ("error", 3)
        assert worker.call("nothing").value is None


def test_a_worker_that_cannot_start_says_why(start: Callable[..., Worker]) -> None:
    with pytest.raises(WorkerError, match=r"It cannot start\. Do something else\."):
        start("broken")


def test_a_worker_that_takes_too_long_is_ended(start: Callable[..., Worker]) -> None:
    worker = start("act")
    with pytest.raises(WorkerError, match=r"longer than 0\.3 s") as caught:
        worker.call("sleep", time_limit=0.3)
    assert caught.value.kind == "timeout"
    assert gone(worker._process.pid)


@pytest.mark.parametrize(("request_", "words"), [("die", r"SIGSEGV.*last words"), ("exit", "exit code 5")])
def test_a_worker_that_dies_is_an_error(start: Callable[..., Worker], request_: str, words: str) -> None:
    with start("act") as worker, pytest.raises(WorkerError, match=words) as caught:
        worker.call(request_)
    assert caught.value.kind == "died"


def test_a_worker_cannot_take_more_memory_than_its_limit(start: Callable[..., Worker]) -> None:
    with start("act", memory_limit=256 << 20) as worker:
        assert worker.call({"allocate": 1 << 20}).value == 1 << 20
        with pytest.raises(WorkerError, match="out of memory"):
            worker.call({"allocate": 1 << 30})
    with start("act") as worker:
        reply = worker.call({"allocate": 300 << 20})
        assert reply.peak_bytes > 300 << 20


@pytest.mark.parametrize("how", ["close", "timeout"])
def test_the_processes_that_a_worker_started_are_ended_with_it(start: Callable[..., Worker], how: str) -> None:
    worker = start("act")
    child = worker.call("child").value
    assert alive(child)
    if how == "close":
        worker.close()
    else:
        with pytest.raises(WorkerError):
            worker.call("sleep", time_limit=0.1)
    assert gone(child)
    worker.close()


@pytest.fixture
def compiler(tmp_path: Path) -> tuple[list[str], Callable[[], list[int]]]:
    """A stand-in for a compiler: it starts another program, as compilers do, and both sleep; and their numbers."""
    script, numbers = tmp_path / "compiler", tmp_path / "numbers"
    script.write_text(f"#!/bin/sh\nsleep 600 &\necho $$ $! > {numbers}.new\nmv {numbers}.new {numbers}\nwait\n")
    script.chmod(0o755)

    def started() -> list[int]:
        deadline = time.monotonic() + 10
        while not numbers.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        return [int(number) for number in numbers.read_text().split()]

    return [str(script)], started


def test_a_tool_that_takes_too_long_is_ended_with_what_it_started(
    compiler: tuple[list[str], Callable[[], list[int]]],
) -> None:
    command, started = compiler
    with pytest.raises(InternalError, match=r"compiler took longer than 1 s"):
        run_tool(command, time_limit=1)
    assert [gone(pid) for pid in started()] == [True, True]


def test_a_workers_tool_is_ended_with_the_worker(
    start: Callable[..., Worker], compiler: tuple[list[str], Callable[[], list[int]]]
) -> None:
    command, started = compiler
    worker = start("act")
    with pytest.raises(WorkerError, match="took longer"):
        worker.call({"tool": command}, time_limit=1)
    assert [gone(pid) for pid in started()] == [True, True]


def test_an_interrupt_ends_a_tool(compiler: tuple[list[str], Callable[[], list[int]]]) -> None:
    command, started = compiler
    # A shell that starts tests in the background has them ignore interrupts.
    heeded = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = f"{heeded}\nfrom tilewright.workers import run_tool\nrun_tool({command!r})"
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as running:
        tools = started()
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=10)
    assert [gone(pid) for pid in tools] == [True, True]


def test_a_tool_gives_its_status_and_what_it_printed() -> None:
    done = run_tool(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_a_worker_dies_with_the_process_that_started_it() -> None:
    script = (
        f"import sys; sys.path.insert(0, {FOLDER!r})\n"
        "from tilewright.workers import Worker\n"
        "worker = Worker('tasks:act')\n"
        "print(worker._process.pid, flush=True)\n"
        "worker.call('sleep')\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert alive(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(worker)


def test_a_file_in_the_working_folder_is_not_imported(
    start: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    with start("echo", 1) as worker:
        assert worker.call(2).value["request"] == 2
