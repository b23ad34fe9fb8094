"""What units of a launch can keep in memory of their own, and how much of it they have beside what kernels take."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.device import DeviceModel
from tilewright.ir.program import Envelope, Kernel

STEP = 1024
"""Bytes that a unit's memory is counted in."""


Slices = tuple[tuple[str, int, int], ...]
"""Of each slice of a kernel's tasks the weight, the first byte of task 0 and the bytes of each task."""


def slices_of(kernel: Kernel, args: Sequence[str]) -> Slices:
    """What the tasks of a kernel read in slices where it has these arguments."""
    parts = zip(kernel.sliced, kernel.choice.slices, strict=True)
    return tuple((args[number], x.first, x.bytes) for number, x in parts)


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
