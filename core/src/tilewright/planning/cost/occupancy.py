"""How many tasks of a kernel one unit of the device works on at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tilewright.device import DeviceModel
from tilewright.recipes import Columns, Match, evaluate


def tasks_per_unit(match: Match, columns: Columns, device: DeviceModel) -> npt.NDArray[np.float64]:
    """Tasks that fit on one unit side by side, at least 1; for every row of `columns`."""
    rows = len(next(iter(columns.values()))) if columns else 1
    if device.kind == "cpu":
        return np.ones(rows)
    count = np.full(rows, max(device.max_blocks_per_unit, 1), np.float64)
    usage = match.usage
    threads = np.maximum(evaluate(usage.threads, columns, rows), 1)
    count = np.minimum(count, device.max_threads_per_unit // threads)
    shared = np.maximum(evaluate(usage.shared_bytes, columns, rows), 1)
    count = np.minimum(count, device.level("shared").bytes // shared)
    registers = np.maximum(evaluate(usage.registers, columns, rows), 16)
    count = np.minimum(count, device.registers_per_unit // (registers * threads))
    return np.asarray(np.maximum(count, 1), np.float64)
