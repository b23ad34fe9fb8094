"""vDevice: the units (vEUs) that the rTasks of a launch are bound to (Rammer, section 3)."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from tilewright.device import DeviceModel
from tilewright.ir.choice import Resources
from tilewright.ir.program import Envelope


@attrs.frozen
class VDevice:
    """What rTasks run on.

    Args:
        units: number of vEUs: all of them are resident at once.
        wait: seconds from a signal to the end of a wait for it.
        barrier: seconds of a barrier over all units.
        launch: seconds of a launch, or of a parallel region.
        serial: whether a kernel of one task needs no launch of its own (CPU).
    """

    units: int
    wait: float
    barrier: float
    launch: float
    serial: bool


def vdevice_of(device: DeviceModel, resources: Iterable[Resources]) -> VDevice:
    """The vDevice for a launch in which tasks with these resources run."""
    envelope = envelope_of(device, resources)
    return VDevice(
        units=envelope.units,
        wait=device.barrier_seconds / 2,
        barrier=device.barrier_seconds,
        launch=device.launch_seconds,
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
