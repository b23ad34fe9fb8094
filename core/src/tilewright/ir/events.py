"""How the buffer is laid out in which the units of a launch meet.

Two lines for tickets (which run of the launch it is, which grid barrier), then the launch's counters twice. Runs use
one set of counters by turns and clear the other, so that nothing has to be cleared in front of a launch. Behind them,
of a launch that is traced, for each unit a line that begins with the number of its tasks, and the records of these.
Last, of a launch with forks whose calls run side by side, for each sub-grid a line for its tickets, and one for what
its first unit tells the others.
"""

from __future__ import annotations

from tilewright.ir.program import Launch

LINE = 128
"""Bytes that lie apart so that units can write them without disturbing each other: a line of a GPU's caches."""

COUNTER_BYTES = 4

TRACE_BYTES = 32
"""Of the record of a task: four 64-bit integers, its kernel's number with the task's above, begin, end, and place."""


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


def trace_offset(launch: Launch) -> int:
    """Where what the units record begins."""
    return 2 * LINE + 2 * set_bytes(launch)


def trace_bytes(launch: Launch) -> int:
    """Bytes that one unit has for its records."""
    return LINE + -(-TRACE_BYTES * launch.traced // LINE) * LINE if launch.traced else 0


def subgrid_offset(launch: Launch) -> int:
    """Where the lines of sub-grids begin."""
    return trace_offset(launch) + launch.envelope.units * trace_bytes(launch)


def event_bytes(launch: Launch) -> int:
    """Bytes of a launch's event buffer."""
    return subgrid_offset(launch) + 2 * LINE * (launch.subgrids.count if launch.subgrids.levels else 0)
