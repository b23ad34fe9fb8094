"""Several workers side by side, for a list of requests that do not depend on each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

from tilewright.workers.client import Worker, WorkerError
from tilewright.workers.idle import Post


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
    running: set[Worker] = set()
    ended = Event()

    def serve() -> None:
        worker: Worker | None = None
        try:
            while left:
                try:
                    number, request = left.popleft()
                except IndexError:  # another thread was quicker
                    break
                try:
                    if worker is None:
                        worker = post.take()
                        running.add(worker)
                    if ended.is_set():
                        return
                    answers[number] = worker.call(request).value
                except WorkerError as error:
                    answers[number] = error
                    if error.kind != "error" and worker is not None:
                        running.discard(worker)
                        worker.close()
                        worker = None
            if worker is not None and not ended.is_set():
                running.discard(worker)
                post.keep(worker)
                worker = None
        finally:
            if worker is not None:
                running.discard(worker)
                worker.close()

    if not requests:
        return answers
    with ThreadPoolExecutor(min(count, len(requests))) as threads:
        serving = [threads.submit(serve) for _ in range(min(count, len(requests)))]
        try:
            for one in serving:
                one.result()
        except BaseException:
            ended.set()
            left.clear()
            for worker in tuple(running):
                worker.kill()
            raise
    return answers
