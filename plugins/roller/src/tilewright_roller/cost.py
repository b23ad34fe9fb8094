"""`cost = "roller"`: the micro performance model (OSDI'22, section 4): the device level by level, and how they overlap.

The unit with the most tasks ends last, so all is reckoned for that unit: the arithmetic it does, padding included, the
bytes that each memory level gives it, how far these overlap, and the steps that overlap with nothing. The numbers are
those of the device model; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np
import numpy.typing as npt

from tilewright.device import DeviceModel, MemoryLevel
from tilewright.planning.cost.occupancy import tasks_per_unit
from tilewright.planning.requests import Cost
from tilewright.recipes import Columns, Match, evaluate
from tilewright_roller.rtile import BLOCK, REGISTER, Array, footprint, points, source_of, traffic, transaction_of

_SCHEDULERS = 4
"""Warps that a GPU's unit issues from in a cycle."""
_CPU_DEPTH = 3.0
"""Loads that a core keeps under way beside its arithmetic, as if they were stages."""
_SHARE = 2.0
"""How many times its even share of a common level's bandwidth one unit can draw."""
_UNROLLED = 4
"""Steps of a reduction whose loads a thread has under way together, where no tile is staged."""
_STAGED_DEPTH = 2.0
"""Pieces of work that a block with staged tiles has under way, as if they were stages."""
_STAGES = "stages"


@attrs.frozen
class Prediction:
    """Seconds of N choices.

    Args:
        total: of the whole kernel.
        parts: what the slowest unit spends in "compute", in each memory level, in "steps" that overlap with nothing,
            and in "launch".
    """

    total: Array
    parts: Mapping[str, Array]

    def bound(self, row: int) -> str:
        """The part that takes longest."""
        return max(self.parts, key=lambda name: float(self.parts[name][row]))


def make() -> Cost:
    """The service."""

    def cost(match: Match, columns: Columns, device: DeviceModel) -> npt.NDArray[np.float64]:
        return predict(match, columns, device).total

    return cost


def predict(match: Match, columns: Columns, device: DeviceModel) -> Prediction:
    """The model's answer for every row of `columns`, part by part."""
    rows = len(next(iter(columns.values()))) if columns else 1
    tasks = np.maximum(evaluate(match.usage.tasks, columns, rows), 1).astype(np.float64)
    per_unit = np.ceil(tasks / device.units)
    together = np.minimum(per_unit, tasks_per_unit(match, columns, device))
    share = per_unit / tasks  # of the whole kernel, what the slowest unit does
    parts = {"compute": _compute(match, columns, device, together, share, rows)}
    active = np.minimum(tasks, device.units)
    for name, moved in _moved(match, columns, device, tasks, together, rows).items():
        level = device.level(name)
        rate = _rate(level, device, active, _in_flight(match, columns, together, rows))
        parts[name] = moved * share / rate
    overlapping = np.stack(list(parts.values()))
    slowest = overlapping.max(axis=0)
    exposed = (overlapping.sum(axis=0) - slowest) / (1 + _depth(match, columns, device, together, rows))
    rounds = np.ceil(per_unit / np.maximum(together, 1))
    parts["steps"] = np.asarray(evaluate(match.work.serial, columns, rows) * rounds * device.step_seconds, np.float64)
    parts["launch"] = np.full(rows, device.launch_seconds)
    return Prediction(np.asarray(slowest + exposed + parts["steps"] + parts["launch"]), parts)


def _compute(
    match: Match, columns: Columns, device: DeviceModel, together: Array, share: Array, rows: int
) -> Array:
    work = match.work
    peak = device.peak.get(work.unit, device.peak["fma"]) / device.units
    efficiency = np.maximum(evaluate(work.efficiency, columns, rows), 1) / 100
    pace = np.ones(rows)
    if device.kind != "cpu":
        warps = together * np.maximum(evaluate(match.usage.threads, columns, rows), 1) / device.warp
        each = np.maximum(warps / _SCHEDULERS, 1 / _SCHEDULERS)
        pace = each / np.ceil(each)  # the scheduler with the most warps ends last
    return np.asarray(evaluate(work.flops, columns, rows) * share / (peak * efficiency * pace))


def _moved(
    match: Match, columns: Columns, device: DeviceModel, tasks: Array, together: Array, rows: int
) -> dict[str, Array]:
    """Bytes that each level gives to the whole kernel: the recipe's own formula, or that of the tiles it fills."""
    known = {x.name for x in device.levels}
    found = {
        name: evaluate(expr, columns, rows).astype(np.float64)
        for name, expr in match.work.traffic.items()
        if name in known
    }
    for level in match.tiles:
        source = source_of(match, level, device)
        if source.name not in found:
            found[source.name] = traffic(match, level, columns, transaction_of(match, level, device))
    if "dram" in found:
        found["dram"] = _from_memory(match, columns, device, found, tasks, together)
    return found


def _from_memory(
    match: Match, columns: Columns, device: DeviceModel, found: Mapping[str, Array], tasks: Array, together: Array
) -> Array:
    """Bytes from memory: everything once, and once per wave of tasks what the last cache cannot keep between waves."""
    once = found["dram"]
    cache = next((x for x in reversed(device.levels) if x.shared_by_units and x.name != "dram"), None)
    if cache is None or not match.tiles:
        return once
    wave = np.minimum(tasks, device.units * together)
    level = list(match.tiles)[-1]
    tile = points(match, level, columns)
    reached: dict[str, Array] = {}
    left = wave
    for role in reversed(list(match.extents)):
        if role in match.reduced:
            reached[role] = np.full_like(wave, match.extents[role])
            continue
        count = np.minimum(np.ceil(match.extents[role] / tile[role]), left)
        left = np.ceil(left / np.maximum(count, 1))
        reached[role] = np.minimum(count * tile[role], max(match.extents[role], 1))
    per_wave = np.zeros_like(wave)
    for operand in match.operands:
        inside = np.ones_like(wave)
        for role in operand.roles:
            inside = inside * reached[role]
        inside = inside / operand.shared
        per_wave = per_wave + np.minimum(inside, operand.elements) * operand.size
    again = np.maximum(per_wave * np.ceil(tasks / wave) - once, 0)
    missing = np.clip(1 - cache.bytes / np.maximum(once, 1), 0, 1)
    return np.asarray(once + again * missing)


def _rate(level: MemoryLevel, device: DeviceModel, active: Array, in_flight: Array) -> Array:
    """Bytes per second that one of the `active` units draws from a level."""
    even = level.bandwidth / (active if level.shared_by_units else device.units)
    rate = np.minimum(even, _SHARE * level.bandwidth / device.units)
    if device.kind != "cpu" and level.shared_by_units and level.latency:
        rate = np.minimum(rate, in_flight / level.latency)
    return np.asarray(np.maximum(rate, 1.0))


def _in_flight(match: Match, columns: Columns, together: Array, rows: int) -> Array:
    """Bytes under way to one unit: the tiles that are being filled, or what the threads read at a time."""
    if not match.tiles:
        return np.full(rows, np.inf)
    staged = [x for x in match.tiles if x not in (REGISTER, BLOCK)]
    level = staged[-1] if staged else list(match.tiles)[-1]
    ahead = np.full(rows, 1.0 if staged or not match.reduced else _UNROLLED)
    if _STAGES in columns and staged:
        ahead = np.maximum(columns[_STAGES] - 1, 1).astype(np.float64)
    reads = attrs.evolve(match, operands=tuple(x for x in match.operands if not x.outside))
    filled = footprint(reads if reads.operands else match, level, columns)
    return np.asarray(filled * ahead * together)


def _depth(match: Match, columns: Columns, device: DeviceModel, together: Array, rows: int) -> Array:
    """How many pieces of work are under way on a unit, so that loading one hides behind computing another."""
    if device.kind == "cpu":
        return np.full(rows, _CPU_DEPTH)
    stages = columns[_STAGES].astype(np.float64) if _STAGES in columns else np.ones(rows)
    staged = [x for x in match.tiles if x not in (REGISTER, BLOCK)]
    if staged:
        # The warps of a block wait for each other at every tile; those of another block go on meanwhile.
        return np.asarray(stages * _STAGED_DEPTH * np.clip(together, 1, 2))
    warps = together * np.maximum(evaluate(match.usage.threads, columns, rows), 1) / device.warp
    return np.asarray(stages * np.maximum(warps / _SCHEDULERS, 1))
