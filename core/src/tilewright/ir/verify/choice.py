"""Laws of tile choices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tilewright.ir.choice import Resources, TileChoice
from tilewright.ir.expr import variables
from tilewright.ir.verify.laws import Place

if TYPE_CHECKING:
    from tilewright.device import DeviceModel
    from tilewright.recipes import Match

RECIPE = "a choice is of the recipe that matched, and has exactly its parameters"
CONSTRAINTS = "a choice meets its recipe's constraints"
RESOURCES = "what a choice occupies is what its recipe's formulas say"
DEVICE = "what a task occupies exists on the device"
SLICES = "what a choice's tasks read in slices is what its recipe says"
PACKINGS = "a packing gives every axis in terms of its own dims, which have positive extents"


def verify_choice(choice: TileChoice, match: Match, device: DeviceModel) -> None:
    """Raises VerifyError, naming law and place, unless the choice keeps the laws of the third form."""
    place = Place("choice", (choice.recipe,))
    names = [x.name for x in match.parameters]
    if choice.recipe != match.recipe or sorted(x for x, _ in choice.params) != sorted(names):
        found = f"recipe {choice.recipe!r} with parameters {[x for x, _ in choice.params]}"
        raise place.broken(RECIPE, f"{found}; matched is {match.recipe!r} with {names}")
    refusal = match.refusal(choice.as_dict())
    if refusal:
        raise place.broken(CONSTRAINTS, refusal)
    wanted = match.choice(choice.as_dict()).resources
    for field in attrs.fields(Resources):
        said, found = (getattr(x, field.name) for x in (wanted, choice.resources))
        if said != found:
            raise place.at(field.name).broken(RESOURCES, f"{found}, the formula gives {said}")
    if choice.slices != match.choice(choice.as_dict()).slices:
        raise place.broken(SLICES, f"{choice.slices}")
    for packing in choice.packings:
        dims = {name for name, extent in packing.dims if extent > 0}
        used = {name for _, expr in packing.axes for name in variables(expr)}
        if len(dims) != len(packing.dims) or not used <= dims:
            raise place.at(f"packing of read {packing.slot}").broken(PACKINGS, f"dims {packing.dims}, uses {used}")
    check_resources(choice.resources, device, place)


def check_resources(resources: Resources, device: DeviceModel, place: Place) -> None:
    """Refuses more threads, registers or shared bytes than a block may have on a device."""
    limits = (
        ("threads", resources.threads, device.max_threads_per_block),
        ("shared bytes", resources.shared_bytes, device.shared_per_block),
        ("registers", resources.registers * resources.threads, device.registers_per_unit),
    )
    for what, found, limit in limits:
        if limit and found > limit:
            raise place.broken(DEVICE, f"{found} {what}, {device.name} has {limit}")
    if resources.tasks < 1 or resources.threads < 1:
        raise place.broken(DEVICE, f"{resources.tasks} tasks of {resources.threads} threads")
