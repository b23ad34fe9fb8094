"""Workers that wait a while for their next request, so that whoever asks soon need not start one."""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import attrs

from tilewright.workers.client import Worker

_SECONDS = 20.0
"""How long a worker waits."""

_lock = threading.Lock()
_idle: dict[str, list[tuple[Worker, threading.Timer]]] = {}


@attrs.frozen
class Post:
    """A task for which workers are kept. Arguments as for `Worker`."""

    task: str
    argument: Any
    time_limit: float = 600.0
    memory_limit: int | None = None

    @property
    def _key(self) -> str:
        """What a worker that waits must have been started with, its surroundings included."""
        around = [sorted(os.environ.items()), sys.path, str(Path.cwd())]
        return json.dumps([self.task, self.argument, self.time_limit, self.memory_limit, around], sort_keys=True)

    def take(self) -> Worker:
        """A worker that waits, or else a new one. The caller keeps it, or closes it.

        Raises:
            WorkerError: starting one failed.
        """
        with _lock:
            waiting = _idle.get(self._key)
            worker, timer = waiting.pop() if waiting else (None, None)
        if worker is None or timer is None:
            return Worker(self.task, self.argument, time_limit=self.time_limit, memory_limit=self.memory_limit)
        timer.cancel()
        return worker

    def keep(self, worker: Worker) -> None:
        """Lets a worker wait that has answered all that it was asked."""
        timer = threading.Timer(_SECONDS, _dismiss, (self._key, worker))
        timer.daemon = True
        with _lock:
            _idle.setdefault(self._key, []).append((worker, timer))
        timer.start()


def _dismiss(key: str, worker: Worker) -> None:
    with _lock:
        found = [x for x in _idle.get(key, ()) if x[0] is worker]
        for x in found:
            _idle[key].remove(x)
    if found:  # otherwise somebody has just taken it
        worker.close()


def dismiss_all() -> None:
    """Ends every worker that waits."""
    with _lock:
        waiting = [x for workers in _idle.values() for x in workers]
        _idle.clear()
    for worker, timer in waiting:
        timer.cancel()
        worker.close()


def _forget() -> None:
    """After a fork: the workers are the parent's."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()


atexit.register(dismiss_all)
os.register_at_fork(after_in_child=_forget)
