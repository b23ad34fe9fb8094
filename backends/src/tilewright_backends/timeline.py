"""What the units of a traced launch ran, and when: read out of its event buffer after a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.ir.events import LINE, TRACE_BYTES, trace_bytes, trace_offset
from tilewright.ir.program import Launch, Program
from tilewright.runtime.native import TaskTime


def traced(launch: Launch, program: Program, kernels: Sequence[str]) -> dict[str, Any]:
    """What `task_times` needs to know of a launch; JSON.

    Args:
        kernels: names by the numbers in the records.
    """
    return {
        "buffer": launch.event_buffer,
        "first": trace_offset(launch),
        "each": trace_bytes(launch),
        "units": launch.envelope.units,
        "kernels": list(kernels),
        "nodes": [list(program.kernels[x].group.nodes) for x in kernels],
    }


def task_times(told: Mapping[str, Any], buffer: bytes) -> list[TaskTime]:
    """The records of a launch's last run, unit after unit; a unit that ran more tasks has no records of the others."""
    found = []
    for unit in range(told["units"]):
        start = told["first"] + unit * told["each"]
        count = int(np.frombuffer(buffer, np.uint64, 1, start)[0])
        rows = np.frombuffer(buffer, np.uint64, count * TRACE_BYTES // 8, start + LINE).reshape(count, TRACE_BYTES // 8)
        for which, begin, end, place in rows.tolist():
            number, task = which & 0xFFFFFFFF, which >> 32
            kernel, nodes = told["kernels"][number], tuple(told["nodes"][number])
            found.append(TaskTime(unit, place, kernel, nodes, task, begin, end))
    return found
