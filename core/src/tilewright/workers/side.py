"""Several workers side by side, for a list of requests that do not depend on each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

from tilewright.workers.client import Worker, WorkerError
from tilewright.workers.idle import Post


class Crew:
    """Workers of several threads, which an interrupt ends all."""

    def __init__(self) -> None:
        self._running: set[Worker] = set()
        self._ended = Event()

    @property
    def ended(self) -> bool:
        """Whether an interrupt, or an error of a thread, has ended it."""
        return self._ended.is_set()

    def add(self, worker: Worker) -> None:
        """A worker begins; it is ended at once where the crew is."""
        self._running.add(worker)
        if self.ended:
            worker.kill()

    def discard(self, worker: Worker) -> None:
        """A worker is not to be ended any more."""
        self._running.discard(worker)

    def run(self, serve: Callable[[], None], count: int) -> None:
        """Calls `serve` in `count` threads until all return; raises what one of them raised."""
        with ThreadPoolExecutor(count) as threads:
            serving = [threads.submit(serve) for _ in range(count)]
            try:
                for one in serving:
                    one.result()
            except BaseException:
                self._ended.set()
                for worker in tuple(self._running):
                    worker.kill()
                raise


def replies(post: Post, requests: Sequence[Any], count: int) -> list[Any | WorkerError]:
    """The reply to each request, in their order, or the error that stands for it.

    Each worker takes the next request that nobody has taken. One that dies or hangs costs the request that it had; a
    fresh one goes on. An interrupt ends them all; otherwise they are kept for the next call.

    Args:
        post: the task of the workers.
        count: of workers, at most; there are never more than requests.
    """
    answers: list[Any] = [None] * len(requests)
    left = deque(enumerate(requests))
    crew = Crew()

    def serve() -> None:
        worker: Worker | None = None
        try:
            while left and not crew.ended:
                try:
                    number, request = left.popleft()
                except IndexError:  # another thread was quicker
                    break
                try:
                    if worker is None:
                        worker = post.take()
                        crew.add(worker)
                    if crew.ended:
                        return
                    answers[number] = worker.call(request).value
                except WorkerError as error:
                    answers[number] = error
                    if error.kind != "error" and worker is not None:
                        crew.discard(worker)
                        worker.close()
                        worker = None
            if worker is not None and not crew.ended:
                crew.discard(worker)
                post.keep(worker)
                worker = None
        finally:
            if worker is not None:
                crew.discard(worker)
                worker.close()

    if requests:
        crew.run(serve, min(count, len(requests)))
    return answers
