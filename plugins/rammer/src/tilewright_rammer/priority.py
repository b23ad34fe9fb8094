"""How urgent an operator is: the length of the critical path from its beginning to the end."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright_rammer.operators import ROperator
from tilewright_rammer.vdevice import VDevice


def urgency(operators: Sequence[ROperator], device: VDevice) -> list[float]:
    """Seconds from the beginning of each operator to the end of the last one that depends on it."""
    after = [0.0] * len(operators)
    found = [0.0] * len(operators)
    for operator in reversed(operators):
        rounds = -(-operator.tasks // device.units)
        found[operator.number] = after[operator.number] + operator.seconds * rounds
        for earlier in operator.before:
            after[earlier] = max(after[earlier], found[operator.number] + device.met(operator.tasks))
    return found
