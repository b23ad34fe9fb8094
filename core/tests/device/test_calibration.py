"""Calibrations: what they change in a device model, and that a file which is none is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from tilewright.device import load_device
from tilewright.device.calibration import VARIABLE, Calibration, calibrated, calibration_file, store, stored
from tilewright.errors import InputError

H200 = load_device("h200")
FOUND = Calibration(
    "cuda:h200", 66, "a half", {"dram": 1e12, "shared": 2e13}, {"fma": 3e13, "new": 1e12}, launch_seconds=2e-6
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


def test_measured_numbers_take_the_place_of_the_models() -> None:
    device = FOUND.applied(H200)
    # Twice the units have twice the arithmetic and twice the levels that each of them owns; they share memory.
    assert device.level("dram").bandwidth == 1e12
    assert device.level("shared").bandwidth == 4e13
    assert device.peak["fma"] == 6e13
    assert device.peak["new"] == 2e12
    assert device.launch_seconds == 2e-6
    rest = attrs.evolve(
        device, levels=H200.levels, peak=H200.peak, launch_seconds=H200.launch_seconds
    )
    assert rest == H200
    assert device.level("l2") == H200.level("l2")


def test_a_stored_calibration_is_read_again(folder: Path) -> None:
    assert stored("cuda:h200") is None
    assert calibrated(H200, "cuda:h200") == H200
    assert store(FOUND) == calibration_file("cuda:h200") == folder / "calibration" / "cuda-h200.json"
    assert stored("cuda:h200") == FOUND
    assert calibrated(H200, "cuda:h200") == FOUND.applied(H200)
    assert calibrated(H200, "cuda:h100") == H200
    store(attrs.evolve(FOUND, units=132))
    assert calibrated(H200, "cuda:h200").peak["fma"] == 3e13


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"schema": 2}, "schema = 1"),
        ({"units": 0}, "positive"),
        ({"bandwidth": {"dram": -1.0}}, "positive"),
        ({"peak": {"fma": "fast"}}, "positive"),
        ({"launch_seconds": 5.0}, "from 0 to 1"),
        ({"speed": 1.0}, "speed"),
        (None, "not a calibration"),
    ],
)
def test_a_file_that_is_none_is_told(changed: dict[str, Any] | None, told: str) -> None:
    path = store(FOUND)
    content = "[" if changed is None else json.dumps(attrs.asdict(FOUND) | changed)
    path.write_text(content)
    with pytest.raises(InputError) as raised:
        stored("cuda:h200")
    assert told in raised.value.message
    assert str(path) in raised.value.message


def test_a_folder_that_cannot_be_made_is_told(folder: Path) -> None:
    (folder / "calibration").write_text("")
    with pytest.raises(InputError, match="cannot be"):
        store(FOUND)
