"""Calibrations: what a device was measured to do, stored once for a user, in place of data sheets and guesses.

`tilewright calibrate` writes one; whoever asks for the device model of that target gets its numbers from then on. They
lie in the folder `calibration` of `TILEWRIGHT_CONFIG`, or else of the user's configuration folder, one JSON file per
target.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import cattrs
import platformdirs

from tilewright.device.model import DeviceModel
from tilewright.errors import InputError
from tilewright.files import replacing

VARIABLE = "TILEWRIGHT_CONFIG"
SCHEMA = 1


@attrs.frozen
class Calibration:
    """Measured numbers of a device; what is missing stays as the device model has it.

    Args:
        target: canonical target string.
        units: units that were at work when it was measured; on a CPU the threads.
        machine: what it was measured on, for people.
        bandwidth: bytes per second by memory level.
        peak: operations per second by unit of arithmetic.
        launch_seconds: see `DeviceModel`; 0 when it was not measured.
        barrier_seconds: likewise.
        step_seconds: likewise.
    """

    target: str
    units: int
    machine: str = ""
    bandwidth: Mapping[str, float] = attrs.field(factory=dict)
    peak: Mapping[str, float] = attrs.field(factory=dict)
    launch_seconds: float = 0.0
    barrier_seconds: float = 0.0
    step_seconds: float = 0.0
    schema: int = SCHEMA

    def applied(self, device: DeviceModel) -> DeviceModel:
        """The device model with the measured numbers; those that each unit adds to follow the model's units."""
        scale = device.units / self.units
        levels = tuple(
            attrs.evolve(x, bandwidth=self.bandwidth[x.name] * (1.0 if x.shared_by_units else scale))
            if x.name in self.bandwidth
            else x
            for x in device.levels
        )
        return attrs.evolve(
            device,
            levels=levels,
            peak={**device.peak, **{name: rate * scale for name, rate in self.peak.items()}},
            launch_seconds=self.launch_seconds or device.launch_seconds,
            barrier_seconds=self.barrier_seconds or device.barrier_seconds,
            step_seconds=self.step_seconds or device.step_seconds,
        )


def calibration_file(target: str) -> Path:
    """Where the calibration of a target lies; nothing is created."""
    chosen = os.environ.get(VARIABLE)
    folder = Path(chosen).absolute() if chosen else platformdirs.user_config_path("tilewright")
    return folder / "calibration" / f"{target.replace(':', '-')}.json"


def store(calibration: Calibration) -> Path:
    """Writes a calibration in place of the one that the target had, and says where."""
    path = calibration_file(calibration.target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {path.parent} cannot be created: {error.strerror}.", f"Set {VARIABLE} to another one."
        ) from error
    with replacing(path) as file:
        file.write(json.dumps(attrs.asdict(calibration), indent=1, sort_keys=True).encode())
    return path


def stored(target: str) -> Calibration | None:
    """The calibration of a target, or None when there is none.

    Raises:
        InputError: the file cannot be read, or is none of this version's.
    """
    path = calibration_file(target)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The calibration {path} cannot be read: {error}.", _REMEDY) from error
    try:
        found = _CONVERTER.structure(_checked(json.loads(text)), Calibration)
    except (ValueError, cattrs.BaseValidationError) as error:
        why = "; ".join(cattrs.transform_error(error)) if isinstance(error, cattrs.BaseValidationError) else str(error)
        raise InputError(f"{path} is not a calibration: {why}.", _REMEDY) from error
    return found


def calibrated(device: DeviceModel, target: str) -> DeviceModel:
    """The device model with the numbers of the target's calibration, if one is stored."""
    found = stored(target)
    return device if found is None else found.applied(device)


def _checked(table: Any) -> Any:
    """Raises ValueError for what would make a nonsense of every prediction."""
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        raise ValueError(f"it needs schema = {SCHEMA}")
    numbers = [table.get("units"), *dict(table.get("bandwidth", {})).values(), *dict(table.get("peak", {})).values()]
    if not all(isinstance(x, int | float) and 0 < x < float("inf") for x in numbers):
        raise ValueError("units, bandwidths and peaks must be positive numbers")
    seconds = [table.get(x, 0.0) for x in ("launch_seconds", "barrier_seconds", "step_seconds")]
    if not all(isinstance(x, int | float) and 0 <= x < 1 for x in seconds):
        raise ValueError("seconds must be numbers from 0 to 1")
    return table


_CONVERTER = cattrs.Converter(forbid_extra_keys=True)
_REMEDY = "Remove it, or run tilewright calibrate again."
