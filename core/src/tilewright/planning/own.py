"""How much memory of their own the units of a launch have beside what their kernels take."""

from __future__ import annotations

from tilewright.device import DeviceModel
from tilewright.ir.program import Envelope

STEP = 1024
"""Bytes that a unit's memory is counted in."""


def room(envelope: Envelope, device: DeviceModel) -> int:
    """Bytes that each unit of a launch can keep while all of them still are at work at once."""
    if device.kind != "cuda":
        return 0
    low, high = 0, max(device.shared_per_block - envelope.own_offset, 0) // STEP
    while low < high:
        middle = (low + high + 1) // 2
        block = envelope.own_offset + middle * STEP
        fits = device.blocks_together(envelope.threads, envelope.registers, block) >= envelope.units
        low, high = (middle, high) if fits else (low, middle - 1)
    return low * STEP
