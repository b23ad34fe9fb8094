"""Which kernels can be rOperators of persistent launches, and why the others cannot."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.device import DeviceModel
from tilewright.ir.choice import Resources
from tilewright.planning.requests import Planned
from tilewright.planning.session import Session
from tilewright_rammer.vdevice import union


def excluded(planned: Sequence[Planned], session: Session) -> list[str]:
    """For each kernel why it has a launch of its own, "" where it can be merged with others."""
    embeddable = {x.name for x in session.recipes if x.embeddable}
    why = [_alone(x, session.device, embeddable) for x in planned]
    if session.device.kind != "cpu":
        _make_room(planned, session.device, why)
    return why


def _alone(item: Planned, device: DeviceModel, embeddable: set[str]) -> str:
    choice = item.kernel.choice
    needs = choice.resources
    if choice.count is not None:
        return "how many tasks it has depends on the shapes of a run"
    if choice.recipe not in embeddable:
        return f"kernels of recipe {choice.recipe} cannot be part of another"
    side_by_side = device.blocks_together(needs.threads, needs.registers, needs.shared_bytes)
    if device.kind != "cpu" and needs.tasks > side_by_side:
        return f"its {needs.tasks} tasks fill the device, which runs {side_by_side} of them at a time"
    return ""


def _make_room(planned: Sequence[Planned], device: DeviceModel, why: list[str]) -> None:
    """Leaves kernels out until a unit can hold any of those left: of the greediest kinds, the one that costs least."""
    while True:
        kept = [i for i, reason in enumerate(why) if not reason]
        if not kept:
            return
        needs = {i: planned[i].kernel.choice.resources for i in kept}
        whole = union(needs.values())
        if device.blocks_held(whole.threads, whole.registers, whole.shared_bytes):
            return
        greedy = [_greediest(needs, name) for name in ("threads", "registers", "shared_bytes")]
        left_out = min(greedy, key=lambda numbers: sum(planned[i].kernel.choice.cost for i in numbers))
        for i in left_out:
            threads, registers = needs[i].threads, needs[i].registers
            why[i] = f"no unit has room for its {threads} threads of {registers} registers beside other kernels"


def _greediest(needs: dict[int, Resources], name: str) -> list[int]:
    most = max(getattr(x, name) for x in needs.values())
    return [i for i, x in needs.items() if getattr(x, name) == most]
