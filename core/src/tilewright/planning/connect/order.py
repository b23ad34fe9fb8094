"""Putting the items of a cover into an execution order."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from tilewright.errors import InternalError
from tilewright.ir.group import ControlItem, Group
from tilewright.ir.ops import Value


def topological(items: Sequence[Group | ControlItem]) -> tuple[Group | ControlItem, ...]:
    """The items with producers before consumers, otherwise in the given order.

    Raises InternalError when the groups depend on each other in a circle.
    """
    producer: dict[Value, int] = {}
    for i, item in enumerate(items):
        for value in item.outputs:
            producer.setdefault(value, i)
    needs = [{producer[v] for v in item.inputs if v in producer} - {i} for i, item in enumerate(items)]
    users: dict[int, list[int]] = {}
    for i, sources in enumerate(needs):
        for source in sources:
            users.setdefault(source, []).append(i)
    ready = [i for i, sources in enumerate(needs) if not sources]
    heapq.heapify(ready)
    ordered: list[Group | ControlItem] = []
    while ready:
        i = heapq.heappop(ready)
        ordered.append(items[i])
        for user in users.get(i, []):
            needs[user].discard(i)
            if not needs[user]:
                heapq.heappush(ready, user)
    if len(ordered) < len(items):
        stuck = [items[i].name for i, sources in enumerate(needs) if sources]
        raise InternalError(f"These groups depend on each other in a circle: {', '.join(stuck)}.")
    return tuple(ordered)
