"""How the buffer is laid out in which the units of a launch meet.

Two lines for tickets (which run of the launch it is, which grid barrier), then the launch's counters twice. Runs use
one set of counters by turns and clear the other, so that nothing has to be cleared in front of a launch.
"""

from __future__ import annotations

from tilewright.ir.program import Launch

LINE = 128
"""Bytes that lie apart so that units can write them without disturbing each other: a line of a GPU's caches."""

COUNTER_BYTES = 4


def first_counters(launch: Launch) -> dict[str, int]:
    """The number of each event's first counter among those of a launch."""
    found: dict[str, int] = {}
    total = 0
    for name, count in launch.events.items():
        found[name] = total
        total += count
    return found


def set_bytes(launch: Launch) -> int:
    """Bytes of one set of counters, whole lines."""
    return -(-COUNTER_BYTES * sum(launch.events.values()) // LINE) * LINE


def event_bytes(launch: Launch) -> int:
    """Bytes of a launch's event buffer."""
    return 2 * LINE + 2 * set_bytes(launch)
