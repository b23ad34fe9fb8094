"""How units on the CPU meet: the C source of barriers and waits, compiled alone and called by Python's threads."""

from __future__ import annotations

import ctypes
import subprocess
import threading
from pathlib import Path

import pytest

from tilewright_backends.build.llvm import c_compiler
from tilewright_backends.host.cpu import WAITING

MEETINGS = 2000


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("waiting")
    (folder / "waiting.c").write_text(WAITING)
    command = [c_compiler(), "-O2", "-shared", "-fPIC", "-o", "waiting.so", "waiting.c"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(Path(folder, "waiting.so")))


@pytest.mark.parametrize("units", [2, 3])
@pytest.mark.parametrize("rounds", [0, (1 << 31) - 5, (1 << 32) - 5])
def test_nobody_passes_a_barrier_before_all_are_there(library: ctypes.CDLL, units: int, rounds: int) -> None:
    """Also where the number of rounds goes beyond what it can hold."""
    counters = (ctypes.c_uint32 * 2)(0, rounds)
    done = [0] * units
    early: list[tuple[int, int]] = []

    def work(unit: int) -> None:
        for meeting in range(MEETINGS):
            done[unit] = meeting + 1
            library.tw_barrier(counters, units)
            early.extend((unit, x) for x in done if x < meeting + 1)
            library.tw_barrier(counters, units)

    threads = [threading.Thread(target=work, args=(unit,)) for unit in range(units)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert early == []
    assert counters[1] == (rounds + 2 * MEETINGS) % (1 << 32)


def test_a_wait_ends_when_its_count_is_reached(library: ctypes.CDLL) -> None:
    counter = (ctypes.c_int32 * 1)(0)
    order: list[str] = []

    def wait() -> None:
        library.tw_wait(counter, 2)
        order.append("passed")

    waiting = threading.Thread(target=wait)
    waiting.start()
    library.tw_signal(counter)
    waiting.join(0.05)
    order.append("second signal")
    library.tw_signal(counter)
    waiting.join(60)
    assert order == ["second signal", "passed"]
