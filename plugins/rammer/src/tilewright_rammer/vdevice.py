"""vDevice: the units (vEUs) that the rTasks of a launch are bound to (Rammer, section 3)."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from tilewright.device import DeviceModel
from tilewright.ir.choice import Resources
from tilewright.ir.program import Envelope
from tilewright.planning.timeline import meeting_seconds, start_seconds, wait_seconds

_MOST_RUNS = 600_000
"""Units × operators up to which a vDevice is tried beside another."""


@attrs.frozen
class VDevice:
    """What rTasks run on.

    Args:
        units: number of vEUs: all of them are resident at once.
        wait: seconds from the end of a task to the beginning of one that waits for it, where one unit signals.
        crowd: by how many more, where all units do.
        barrier: seconds from the last task before a barrier over all units to the first one behind it.
        launch: seconds of a launch of one kernel, or of a parallel region.
        start: seconds of a launch of many kernels.
        serial: whether a kernel of one task needs no launch of its own (CPU).
    """

    units: int
    wait: float
    crowd: float
    barrier: float
    launch: float
    start: float
    serial: bool

    def met(self, signals: int) -> float:
        """Seconds of a wait for so many units."""
        return self.wait + self.crowd * min(signals / self.units, 1.0)


def vdevice_of(device: DeviceModel, resources: Iterable[Resources]) -> VDevice:
    """The vDevice for a launch in which tasks with these resources run."""
    return vdevice_in(device, envelope_of(device, resources))


def vdevice_in(device: DeviceModel, envelope: Envelope) -> VDevice:
    """The vDevice of a launch that occupies an envelope."""
    return VDevice(
        units=envelope.units,
        wait=wait_seconds(device, 0.0),
        crowd=wait_seconds(device, 1.0) - wait_seconds(device, 0.0),
        barrier=meeting_seconds(device),
        launch=device.launch_seconds,
        start=start_seconds(device),
        serial=device.kind == "cpu",
    )


def union(resources: Iterable[Resources]) -> Resources:
    """What a unit needs that can run any of some tasks."""
    needs = list(resources)
    threads, registers, shared = (
        max((getattr(x, name) for x in needs), default=0) for name in ("threads", "registers", "shared_bytes")
    )
    return Resources(1, threads, registers, shared)


def envelope_of(device: DeviceModel, resources: Iterable[Resources]) -> Envelope:
    """What a launch occupies that has room for each of its tasks, with as many units as fit on the device at once."""
    whole = union(resources)
    if device.kind == "cpu":
        return Envelope(device.units, 1, 0, whole.shared_bytes, cooperative=True)
    units = device.blocks_together(whole.threads, whole.registers, whole.shared_bytes)
    return Envelope(units, whole.threads, whole.registers, whole.shared_bytes, cooperative=True)


def rooms_of(
    device: DeviceModel, resources: Iterable[Resources], operators: int, limit: Envelope | None = None
) -> list[Envelope]:
    """Envelopes that have room for each of some tasks: on a GPU first one unit on each multiprocessor, which has room
    for larger tasks too, then as many units as fit.

    Args:
        operators: how many there are. Units take turns, so with very many of both the second is left out.
        limit: what a launch may occupy.
    """
    whole = union(resources)
    most = envelope_of(device, [whole])
    if device.kind == "cpu":
        return [most]
    one = _one_each(device, whole, device.max_threads_per_block if limit is None else limit.threads)
    return [one] if most.units <= one.units or most.units * operators > _MOST_RUNS else [one, most]


def _one_each(device: DeviceModel, whole: Resources, limit: int) -> Envelope:
    """A unit with as many threads as it has registers for, and may have."""
    registers = max(whole.registers, 1)
    most = device.registers_per_unit // (-(-registers // 8) * 8) // device.warp * device.warp
    threads = max(whole.threads, min(most, limit))
    shared = max(device.shared_per_block, whole.shared_bytes)
    return Envelope(device.units, threads, registers, shared, cooperative=True)
