"""Turns at a device: one process at a time, and none waits for the dead."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from core.tests.workers.test_workers import FOLDER
from tilewright.workers import BusyError, Worker, turn
from tilewright.workers.turns import lock_file


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_one_process_has_the_device_at_a_time() -> None:
    with Worker("tasks:hold", "cpu") as holder:
        holder.call("begin")
        with pytest.raises(BusyError, match=r"longer than 0.1 s \(they hold .*tilewright-cpu-0.lock"), turn("cpu", 0.1):
            pytest.fail("two have it")
        with turn("cuda", 0):  # another device
            pass
    with turn("cpu", 60):  # the holder was killed
        pass


def test_a_process_waits_for_its_turn() -> None:
    with Worker("tasks:hold", "cpu") as waiting, turn("cpu", 0), pytest.raises(Exception, match="took longer"):
        waiting.call("begin", time_limit=0.3)
    with turn("cpu", 60):
        pass


def test_an_error_gives_the_turn_back() -> None:
    with pytest.raises(ZeroDivisionError), turn("cpu", 0):
        raise ZeroDivisionError
    with turn("cpu", 0):
        pass


def test_devices_are_told_apart_as_the_environment_does(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {}
    for visible in ("", "0,1", "1", "GPU-5/../x"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        names[visible] = (lock_file("cuda").name, lock_file("cpu").name)
    assert names[""] == names["0,1"] == ("tilewright-cuda-0.lock", "tilewright-cpu-0.lock")
    assert names["1"] == ("tilewright-cuda-1.lock", "tilewright-cpu-0.lock")
    assert names["GPU-5/../x"][0] == "tilewright-cuda-GPU-5____x.lock"


def test_a_lock_that_is_no_file_of_ones_own_is_not_followed(tmp_path: Path) -> None:
    lock_file("cpu").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BusyError, match="cannot be opened"), turn("cpu", 0):
        pytest.fail("it was followed")
    assert not (tmp_path / "elsewhere").exists()
