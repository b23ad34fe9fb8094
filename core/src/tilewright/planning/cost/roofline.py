"""`cost = "roofline"`: the slowest of compute and each memory level, with wave quantisation and launch cost.

The others count for a little, so that of two choices that the slowest part makes equal the lighter one is taken.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tilewright.device import DeviceModel
from tilewright.ir.expr import Expr
from tilewright.planning.cost.occupancy import tasks_per_unit
from tilewright.planning.requests import Cost
from tilewright.recipes import Columns, Match, evaluate

_FULL_WARPS = 4
"""Warps that keep a GPU's unit at its peak, one for each of its schedulers.

Measured on an H200: over 97 tilings of matrix products and convolutions, prediction over measurement is 0.96 on
geometric average with a factor of 1.18 for one standard deviation.
"""

_HIDDEN = 0.03
"""What work costs that is hidden behind slower work."""


def make() -> Cost:
    """The service."""

    def cost(match: Match, columns: Columns, device: DeviceModel) -> npt.NDArray[np.float64]:
        rows = len(next(iter(columns.values()))) if columns else 1

        def value(expr: Expr) -> npt.NDArray[np.float64]:
            return evaluate(expr, columns, rows).astype(np.float64)

        tasks = np.maximum(value(match.usage.tasks), 1)
        # The unit with the most tasks ends last; a unit works at its peak once enough of its lanes are busy.
        per_unit = np.ceil(tasks / device.units)
        together = np.minimum(per_unit, tasks_per_unit(match, columns, device))
        full = _FULL_WARPS * device.warp if device.kind != "cpu" else 1
        pace = np.minimum(1, together * np.maximum(value(match.usage.threads), 1) / full)
        busy = tasks / (device.units * per_unit) * pace
        peak = device.peak.get(match.work.unit, device.peak["fma"])
        efficiency = np.maximum(value(match.work.efficiency), 1) / 100
        parts = [value(match.work.flops) / (peak * efficiency * np.maximum(busy, 1e-9))]
        for name, traffic in match.work.traffic.items():
            level = next((x for x in device.levels if x.name == name), None)
            if level is None:
                continue
            # A few units cannot draw a shared level's whole bandwidth.
            share = np.minimum(1, 2 * tasks / device.units) if level.shared_by_units else busy
            parts.append(value(traffic) / (level.bandwidth * np.maximum(share, 1e-9)))
        slowest = np.maximum.reduce(parts)
        seconds = slowest + _HIDDEN * (sum(parts) - slowest)
        rounds = np.ceil(per_unit / np.maximum(together, 1))
        latency = value(match.work.serial) * rounds * device.step_seconds
        return np.asarray(seconds + latency + device.launch_seconds)

    return cost
