"""`connect = "epilogue"`: element-wise consumers and data movements join a kernel; nothing else does.

This is the default and the baseline of every ablation. Movements are read through first (`rewrites.movement`). Then a
reduction, a contraction or a lone element-wise operator starts a group, and an element-wise consumer joins it when
each of its points needs just the element that the group has just computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tilewright.ir.group import ControlItem, Cover, Group, Level
from tilewright.ir.ops import Call, If, Loop, OnnxNode, Op, Region, TensorOp, Value, bodies
from tilewright.planning.connect.order import topological
from tilewright.planning.requests import Connect, Request
from tilewright.rewrites.movement import read_through_movements
from tilewright.views.kernel import KernelSpec, append_consumer, is_elementwise, spec_of

MAX_READS = 16
"""Reads of one kernel: beyond it, one more operand costs more registers than a launch saves."""


@attrs.define
class _Growing:
    """A group while it grows: its operators by position in the region, and its specification so far."""

    members: list[int]
    spec: KernelSpec | None


def make() -> Connect:
    """The service."""

    def connect(region: Region, request: Request) -> Cover:
        simpler = read_through_movements(region)
        connector = _Connector(simpler)
        items = [
            ControlItem(op, tuple(connect(body, request) for body in bodies(op)))
            if isinstance(op := simpler.ops[growing.members[0]], Loop | If | Call)
            else connector.group(growing)
            for growing in connector.groups
        ]
        return Cover(simpler, topological(items))

    return connect


class _Connector:
    def __init__(self, region: Region) -> None:
        self.ops: Sequence[Op] = region.ops
        self.consumers: dict[Value, list[int]] = {}
        for i, op in enumerate(self.ops):
            for value in op.inputs:
                if value is not None:
                    self.consumers.setdefault(value, []).append(i)
        self.outside = {*region.results, *(v for op in self.ops for body in bodies(op) for v in body.captured)}
        self.groups: list[_Growing] = []
        self.owner: dict[Value, int] = {}
        for i, op in enumerate(self.ops):
            number = self._join(i, op) if isinstance(op, TensorOp) and is_elementwise(op) else None
            if number is None:
                number = len(self.groups)
                self.groups.append(_Growing([i], spec_of(op) if isinstance(op, TensorOp) else None))
            self.owner.update((v, number) for v in op.outputs if v is not None)

    def _join(self, i: int, op: TensorOp) -> int | None:
        """Adds the operator to the group of one of its operands, if it can; the group's number or None."""
        sources = {self.owner[v] for v in op.inputs if v in self.owner}
        # The youngest first: its values are still warm, and the older ones stay free for their other consumers.
        for number in sorted(sources, reverse=True):
            growing = self.groups[number]
            if growing.spec is None or len(growing.spec.reads) + len(op.reads) > MAX_READS:
                continue
            if self._depends(op, number):
                continue
            inside = {*growing.members, i}
            keep = frozenset(v.name for v in growing.spec.outputs if self._leaves(v, inside))
            spec = append_consumer(growing.spec, op, keep)
            if spec is not None:
                growing.spec = spec
                growing.members.append(i)
                return number
        return None

    def _depends(self, op: TensorOp, number: int) -> bool:
        """Whether an operand of `op` comes from the group by way of another, so that joining would close a circle."""
        seen: set[int] = set()
        todo = [self.owner[v] for v in op.inputs if v in self.owner and self.owner[v] != number]
        while todo:
            current = todo.pop()
            if current in seen:
                continue
            seen.add(current)
            for member in self.groups[current].members:
                for value in self.ops[member].inputs:
                    below = self.owner.get(value, current) if value is not None else current
                    if below == number:
                        return True
                    if below != current:
                        todo.append(below)
        return False

    def _leaves(self, value: Value, inside: set[int]) -> bool:
        """Whether a value is read by anything but the operators `inside`."""
        users = self.consumers.get(value, [])
        return value in self.outside or not users or any(user not in inside for user in users)

    def group(self, growing: _Growing) -> Group:
        """The finished group. A value that members and others read is both stored and passed on."""
        inside = set(growing.members)
        ops = [self.ops[i] for i in growing.members]
        made = [v for op in ops for v in op.outputs if v is not None]
        levels: tuple[tuple[str, Level], ...] = tuple(
            (v.name, "register") for v in made if any(user in inside for user in self.consumers.get(v, []))
        )
        kernel_ops = tuple(op for op in ops if not isinstance(op, OnnxNode | Loop | If | Call))
        return Group(ops[0].name, kernel_ops, tuple(v for v in made if self._leaves(v, inside)), levels)
