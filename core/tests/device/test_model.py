"""How many blocks a device model says a unit holds, beside numbers worked out by hand from NVIDIA's tables."""

from __future__ import annotations

import pytest

from tilewright.device import load_device


@pytest.mark.parametrize(
    ("device", "threads", "registers", "shared_bytes", "blocks"),
    [
        ("h200", 128, 0, 0, 16),  # 2048 threads
        ("h200", 32, 0, 0, 32),  # 32 blocks
        ("h200", 100, 0, 0, 16),  # whole warps
        ("h200", 512, 64, 0, 2),  # 65536 registers
        ("h200", 512, 65, 0, 1),  # allotted as 72
        ("h200", 1024, 72, 0, 0),
        ("h200", 256, 40, 113 * 1024, 2),  # 228 KiB, of which each block takes another KiB
        ("h200", 256, 40, 113 * 1024 + 1, 1),
        ("a100", 256, 128, 40 * 1024, 2),
        ("a100", 256, 0, 40 * 1024, 4),  # 164 KiB
        ("mi300x", 256, 128, 65536, 1),  # 64 KiB, of which nothing is the system's
        ("rx7900xtx", 128, 0, 65536, 2),  # 128 KiB of two compute units
    ],
)
def test_blocks_of_a_unit(device: str, threads: int, registers: int, shared_bytes: int, blocks: int) -> None:
    assert load_device(device).blocks_held(threads, registers, shared_bytes) == blocks
