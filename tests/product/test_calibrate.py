"""Calibration runs end to end, and what it stores is what planning sees."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest

from tests.product.conftest import Tw
from tilewright.bench import calibrate as bench
from tilewright.compiler import base_device, device_of
from tilewright.config import Config
from tilewright.config.binding import Settings, bind
from tilewright.device.calibration import VARIABLE, store
from tilewright.errors import InputError
from tilewright.plugins.manager import Registry

QUICK = bench.Effort(rounds=3, scale=1 / 16)


def settings_for(target: str) -> Settings:
    return bind(Config(target=target), Registry())


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    settings = settings_for("cpu")
    found = bench.calibrate(settings, 1, QUICK)
    assert found.target == str(settings.target)
    assert found.units == 1
    assert set(found.bandwidth) <= {x.name for x in base_device(settings).levels}
    assert "dram" in found.bandwidth
    # Nothing that runs Python moves less than a megabyte or more than a petabyte per second.
    assert all(1e6 < x < 1e15 for x in (*found.bandwidth.values(), *found.peak.values()))
    assert set(found.peak) == {"fma"}
    assert 0 < found.launch_seconds < 1
    assert device_of(settings) == base_device(settings)
    store(found)
    assert device_of(settings) == found.applied(base_device(settings)) != base_device(settings)


def test_a_device_that_is_planned_for_only() -> None:
    with pytest.raises(InputError, match="cannot be measured"):
        bench.calibrate(settings_for("cuda:v100"), 1, QUICK)


def test_the_command(tw: Tw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(bench, "calibrate", lambda settings, threads: attrs.evolve(FAST, units=threads))
    dry = tw("calibrate", "--threads", 2, "--dry-run")
    assert dry.code == 0, dry.err
    assert not list(tmp_path.iterdir())
    result = tw("calibrate", "--threads", 2)
    assert result.code == 0, result.err
    assert "123" in result.out
    (path,) = tmp_path.glob("calibration/*.json")
    assert json.loads(path.read_text())["units"] == 2


FAST = bench.Calibration("cpu", 1, "", {"dram": 123e9}, {"fma": 1e12}, launch_seconds=1e-6)
