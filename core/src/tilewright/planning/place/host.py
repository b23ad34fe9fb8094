"""`control_place = "host"`: every loop and branch runs on the host, around launches."""

from __future__ import annotations

from tilewright.errors import UnsupportedError
from tilewright.ir.group import Cover, Group
from tilewright.ir.program import HostStep
from tilewright.planning.requests import Place, Planned, Request


def make() -> Place:
    """The service."""

    def place(cover: Cover, request: Request) -> tuple[HostStep, ...]:
        steps: list[HostStep] = []
        straight: list[Planned] = []
        for item in cover.items:
            if isinstance(item, Group):
                straight.append(request.session.plan(item))
                continue
            raise UnsupportedError(
                f"{item.op.loc} is control flow, which this release does not yet run.",
                "Unroll the loop or fold the branch before export.",
            )
        steps += request.session.schedule(straight, request)
        return tuple(steps)

    return place
