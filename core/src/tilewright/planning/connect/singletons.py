"""`connect = "singletons"`: every operator is a kernel of its own, the lower bound of every ablation."""

from __future__ import annotations

from tilewright.ir.group import ControlItem, Cover, Group
from tilewright.ir.ops import Call, If, Loop, OnnxNode, Region, bodies
from tilewright.planning.record import in_kernel
from tilewright.planning.requests import Connect, Request


def make() -> Connect:
    """The service."""

    def connect(region: Region, request: Request) -> Cover:
        items: list[Group | ControlItem] = []
        for op in region.ops:
            if isinstance(op, Loop | If | Call):
                items.append(ControlItem(op, tuple(connect(body, request) for body in bodies(op))))
            else:
                assert not isinstance(op, OnnxNode), "legalised regions hold no ONNX nodes"
                items.append(Group(op.name, (op,), tuple(op.outputs)))
                request.session.decide("connect", op.name, in_kernel(op.name), why="every operator is its own kernel")
        return Cover(region, tuple(items))

    return connect
