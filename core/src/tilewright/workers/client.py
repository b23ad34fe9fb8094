"""The side that asks: starts a worker, sends requests, reads replies, ends the group.

Requests and replies are lines of JSON on two pipes of their own, so whatever a library prints does no harm;
large arrays go through files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from attrs import frozen

from tilewright.errors import TilewrightError

_log = logging.getLogger(__name__)
_TAIL = 2000
_starter: ThreadPoolExecutor | None = None
_starting = threading.Lock()


class WorkerError(TilewrightError):
    """A worker failed, ran out of time or memory, or died.

    Args:
        kind: `error` (it raised), `timeout`, or `died`.
        exit_code: what the command line would exit with for the error that the worker raised.
    """

    def __init__(self, message: str, remedy: str = "", *, kind: str, exit_code: int = 3) -> None:
        super().__init__(message, remedy)
        self.kind = kind
        self.exit_code = exit_code


@frozen
class Reply:
    """What a worker answered, and the most memory it has occupied so far, in bytes."""

    value: Any
    peak_bytes: int


class Worker:
    """A process that was started for one task and answers requests until it is closed.

    Args:
        task: `module:function` of ours; the function is called as `function(argument)` in the worker and
            returns a function from request to reply, both JSON values.
        argument: JSON value.
        time_limit: seconds for starting and, unless a call says otherwise, for each request.
        memory_limit: bytes of private memory that each process of the group may have, or None.
        environment: variables on top of this process's.

    Raises:
        WorkerError: starting failed.
    """

    def __init__(
        self,
        task: str,
        argument: Any = None,
        *,
        time_limit: float = 600.0,
        memory_limit: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.task = task
        self._time_limit = time_limit
        self._memory_limit = memory_limit
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        self._buffer = b""
        try:
            # -P: a file in the working folder must not stand in for a module of the same name.
            self._process = _started(
                [sys.executable, "-P", "-m", "tilewright.workers.server", str(requests), str(replies)],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(requests, replies),
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        finally:
            os.close(requests)
            os.close(replies)
        self._closed = False
        _log.debug("worker %d for %s is started", self._process.pid, task)
        start = {
            "task": task,
            "argument": argument,
            "path": sys.path,
            "memory_limit": memory_limit,
            "parent": os.getpid(),
        }
        try:
            self.started = self._exchange(start, time_limit)
        except BaseException:
            self.close()
            raise

    def call(self, request: Any, *, time_limit: float | None = None) -> Reply:
        """The worker's reply to a request.

        Raises:
            WorkerError: it raised, took too long, or died. After the last two the worker is gone.
        """
        return self._exchange(request, self._time_limit if time_limit is None else time_limit)

    def close(self) -> None:
        """Ends the worker and every process that it started. Doing so twice is no error."""
        if self._closed:
            return
        self._closed = True
        os.close(self._requests)
        os.close(self._replies)
        # The session is ended even if the worker itself is gone: a compiler that it started may still be there. Until
        # the worker is waited for, its number is nobody else's.
        _end_session(self._process.pid)
        self._process.wait()
        _log.debug("worker %d for %s is ended", self._process.pid, self.task)
        self._log.close()

    def kill(self) -> None:
        """Ends the worker's process, from any thread: whoever waits for its reply is told, and closes it."""
        self._process.kill()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _exchange(self, request: Any, time_limit: float) -> Reply:
        try:
            _write(self._requests, json.dumps(request).encode() + b"\n")
            line = self._read_line(time.monotonic() + time_limit)
        except BrokenPipeError:
            line = b""
        except TimeoutError:
            self.close()
            raise WorkerError(
                f"{self.task} took longer than {time_limit:g} s and was ended.",
                "Allow more time, or try a smaller model.",
                kind="timeout",
            ) from None
        if not line:
            raise self._died()
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"], reply["remedy"], kind="error", exit_code=int(reply["exit_code"]))
        return Reply(reply["value"], int(reply["peak"]))

    def _read_line(self, deadline: float) -> bytes:
        with selectors.DefaultSelector() as selector:
            selector.register(self._replies, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                chunk = os.read(self._replies, 1 << 16)
                if not chunk:
                    return b""
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self) -> WorkerError:
        try:
            code = self._process.wait(timeout=5)
            how = f"with signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        except (subprocess.TimeoutExpired, ValueError):
            how = "without a reply"
        self._log.seek(0)
        said = self._log.read()[-_TAIL:].decode(errors="replace").strip()
        self.close()
        remedy = f"It last printed: {said}" if said else ""
        if self._memory_limit is not None and not said:
            remedy = f"It may have wanted more than {self._memory_limit / 2**30:g} GiB."
        return WorkerError(f"{self.task} ended {how}.", remedy, kind="died")


def _started(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """A process, started by a thread that does not end before the interpreter.

    Workers ask the kernel to end them when what started them ends, and to the kernel that is a thread.
    """
    global _starter
    with _starting:
        if _starter is None:
            _starter = ThreadPoolExecutor(1, "tilewright-starter")
        process: Future[subprocess.Popen[bytes]] = _starter.submit(lambda: subprocess.Popen(command, **options))
    try:
        return process.result()
    except BaseException:  # an interrupt: nobody will know of it
        process.add_done_callback(lambda x: None if x.exception() else x.result().kill())
        raise


def _forget() -> None:
    """After a fork: the child has none of its parent's threads."""
    global _starter, _starting
    _starter, _starting = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


def _end_session(leader: int) -> None:
    """Ends every process of a session, those in groups of their own included, until none is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    while members := [pid for pid in _processes() if _session_of(pid) == leader]:
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208 - names, not paths


def _session_of(pid: int) -> int | None:
    """The session of a process, or None when it has ended."""
    try:
        # After the name, which may hold anything: state, parent, group, session.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[3])


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
