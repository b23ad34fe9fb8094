"""Threads of our own that run CPU programs.

TVM keeps a pool of workers for each thread that calls a program. Its size is set when that thread first uses it, and
it lives as long as the thread. So callers do not call programs themselves: a runner does, a thread whose pool has a
known size. An idle runner is used again, hence there are never more of them than runs at one time.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

import tvm_ffi

T = TypeVar("T")

_BIG_CORES, _ONE_EACH = 1, -2  # TVM's AffinityMode; without binding the first only means "no list of processors"
_SPINS = 3000
"""How often a worker without work looks again before it sleeps: some 2 ms. TVM's own number makes it 200, which takes a
processor from others after each run, and from who runs next for much longer, since looks are counted, not time."""
_PATIENCE = 2.0
_LOOK = 0.25  # how often a caller looks up from its waiting
_setting_up = threading.Lock()
_idle: dict[int, list[_Runner]] = {}
_busy: set[_Call] = set()


def call(threads: int, function: Callable[[], T]) -> T:
    """The result of `function`, called on a runner whose programs use `threads` threads; raises what it raises.

    An interrupt ends the waiting at once and not the call, which keeps what it needs alive until it ends.
    """
    try:
        runner = _idle.setdefault(threads, []).pop()
    except IndexError:
        runner = _Runner(threads)
        runner.start()
    return runner.call(function)


class _Call:
    """A call on its way to a runner and back."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.result: Any = None
        self.error: BaseException | None = None
        self.running = threading.Lock()
        self.running.acquire()


class _Runner(threading.Thread):
    def __init__(self, threads: int) -> None:
        # A daemon: waiting for calls must not keep the interpreter from ending.
        super().__init__(name=f"tilewright-runner-{threads}", daemon=True)
        self._threads = threads
        self._sized = False
        self._calls: SimpleQueue[_Call] = SimpleQueue()

    def call(self, function: Callable[[], T]) -> T:
        waiting = _Call(function)
        self._calls.put(waiting)
        # A signal that comes just before the waiting begins does not end it: hence more than one.
        while not waiting.running.acquire(timeout=_LOOK):
            pass
        if waiting.error is not None:
            try:
                raise waiting.error
            finally:
                waiting.error = None  # which refers to this frame
        result: T = waiting.result
        return result

    def run(self) -> None:
        """Serves one call after the other."""
        while True:
            self._serve(self._calls.get())

    def _serve(self, waiting: _Call) -> None:
        _busy.add(waiting)
        try:
            if not self._sized:
                _size_pool(self._threads)
                self._sized = True
            waiting.result = waiting.function()
        except BaseException as error:  # noqa: BLE001 - raised again where the caller waits
            waiting.error = error
        _busy.discard(waiting)
        _idle.setdefault(self._threads, []).append(self)
        waiting.running.release()


def _size_pool(threads: int) -> None:
    """Makes the calling thread's pool, of `threads` threads with itself.

    Where they are as many as the processors, each keeps one: two that stand on one for a while make all others wait.
    Else they may run on any. TVM binds workers unless the environment says otherwise while the pool is made.
    """
    processors = sorted(os.sched_getaffinity(0))
    bound = len(processors) == threads > 1
    named = processors if bound else range(threads)
    configure = tvm_ffi.get_global_func("runtime.config_threadpool")
    with _setting_up, _environment({"TVM_BIND_THREADS": int(bound), "TVM_THREAD_POOL_SPIN_COUNT": _SPINS}):
        # The length of the list is the size of the pool; unless they are bound, no processor in it is used.
        configure(_ONE_EACH if bound else _BIG_CORES, threads, [str(x) for x in named])
        _meet()
    if bound:
        os.sched_setaffinity(0, processors[:1])  # of this thread, which is the pool's first


@contextmanager
def _environment(values: Mapping[str, int]) -> Iterator[None]:
    """Variables of the environment for a while; afterwards they are as before."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_nothing = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(lambda *_: 0)
"""A task of TVM's that does nothing."""


def _meet() -> None:
    """Gives each worker of the calling thread's pool a task, so that all have begun and read their environment."""
    launch = ctypes.CDLL("libtvm_runtime.so").TVMBackendParallelLaunch  # the library that is loaded already
    launch(_nothing, None, 0)


def _forget() -> None:
    """After a fork: the child has none of its parent's threads."""
    global _setting_up
    _setting_up = threading.Lock()
    _idle.clear()
    _busy.clear()


def _finish() -> None:
    """Gives calls that an interrupt left behind a moment, so that they do not run into the end of the interpreter."""
    for waiting in list(_busy):
        waiting.running.acquire(timeout=_PATIENCE)


os.register_at_fork(after_in_child=_forget)
atexit.register(_finish)
