"""The named records that plugins register. Each is frozen, cheap to make, and refers to its code lazily.

A record's `name` is how configuration picks it. A third party puts its entry point's name and a dot in front
(`acme.layout`), which keeps names apart and tells the manager which plugin to import for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from attrs import Attribute, field, frozen
from attrs.validators import in_, instance_of, optional

from tilewright.plugins.references import Reference, check_reference

SLOTS: Mapping[str, str] = {
    "control_rewrite": "identity",
    "connect": "epilogue",
    "propose": "divisors",
    "cost": "roofline",
    "schedule": "one-kernel-per-group",
    "control_place": "host",
    "planner": "staged",
}
"""Every slot and the value that it has when configuration names none."""

STAGES = ("import", "legalize", "control_rewrite", "connect", "schedule", "control_place", "build")
"""The stages of a compilation, in order; passes stand `before.` or `after.` one of them."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@+-]*")


def _check_name(instance: object, attribute: Attribute[Any], value: object) -> None:
    if not (isinstance(value, str) and _NAME.fullmatch(value)):
        raise ValueError(
            f"{type(instance).__name__}.{attribute.name} needs a name of letters, digits and _ . : @ + -, "
            f"not {value!r}."
        )


@frozen
class SlotValue:
    """One value of a slot.

    Args:
        slot: which slot it fills, one of `SLOTS`.
        name: how configuration picks it.
        factory: called as `factory(options)` if `options` is given, else `factory()`; returns the service, a
            callable with the slot's signature (see docs/hooks.md).
        options: name of the `Options` record whose instance the factory wants.
        prefers: values for other slots that configuration leaves out, for instance a proposer's own cost.
    """

    kind: ClassVar[str] = "slot value"
    slot: str = field(validator=in_(tuple(SLOTS)))
    name: str = field(validator=_check_name)
    factory: Reference = field(validator=check_reference)
    options: str | None = None
    prefers: Mapping[str, str] = field(factory=dict)

    @property
    def key(self) -> str:
        return f"{self.slot}={self.name}"


def _tuple(points: Iterable[str]) -> tuple[str, ...]:
    return tuple(points)


@frozen
class Pass:
    """A step that configuration may put before or after a stage.

    Args:
        name: how configuration picks it.
        run: called as `run(ir, session)`, or `run(ir, session, options)` if `options` is given, with the IR
            that stands at that point; returns the IR to go on with. It must not change its argument.
        points: where it may stand, such as `("after.connect",)`.
        options: name of the `Options` record whose instance it wants.
    """

    kind: ClassVar[str] = "pass"
    name: str = field(validator=_check_name)
    run: Reference = field(validator=check_reference)
    points: tuple[str, ...] = field(converter=_tuple)
    options: str | None = None

    @points.validator
    def _check_points(self, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
        for point in value:
            if point not in POINTS:
                raise ValueError(f"Pass {self.name!r} stands at {point!r}; the points are {', '.join(POINTS)}.")

    @property
    def key(self) -> str:
        return self.name


POINTS = tuple(f"{side}.{stage}" for stage in STAGES for side in ("before", "after"))
"""Every point at which configuration can put a pass."""


@frozen
class RecipeEntry:
    """A recipe and the lowering that emits it.

    Args:
        name: unique over all backends, such as `cpu.packed_contraction`.
        backend: name of the `Backend` whose builder can use `emitter`.
        recipe: gives the `tilewright.recipes` record (an object, or a function of no arguments that makes
            it).
        emitter: what the backend's builder calls; its signature is the backend's affair.
    """

    kind: ClassVar[str] = "recipe"
    name: str = field(validator=_check_name)
    backend: str = field(validator=_check_name)
    recipe: Reference = field(validator=check_reference)
    emitter: Reference = field(validator=check_reference)

    @property
    def key(self) -> str:
        return self.name


@frozen
class Backend:
    """Code generation and loading for one kind of target.

    Args:
        name: first part of its target strings: `cpu`, `cuda`.
        builder: `tilewright.runtime.native.Builder`: turns a planned program into a library and weights.
        loader: `tilewright.runtime.native.Loader`: turns them into something that runs.
        versions: function of no arguments giving compiler and toolchain versions by name, from metadata only;
            they are part of the cache key.
        device: function of no arguments giving texts by name that say which device programs run on here, and by which
            driver; None where there is nothing to say.
    """

    kind: ClassVar[str] = "backend"
    name: str = field(validator=_check_name)
    builder: Reference = field(validator=check_reference)
    loader: Reference = field(validator=check_reference)
    versions: Reference = field(validator=check_reference)
    device: Reference | None = field(default=None, validator=optional(check_reference))

    @property
    def key(self) -> str:
        return self.name


@frozen
class DeviceEntry:
    """A device model: what one device can do, so that planning needs none.

    Args:
        name: second part of a target string, such as `h200`.
        backend: name of the `Backend` that generates code for it.
        model: gives the `tilewright.device` model (a function of no arguments).
    """

    kind: ClassVar[str] = "device model"
    name: str = field(validator=_check_name)
    backend: str = field(validator=_check_name)
    model: Reference = field(validator=check_reference)

    @property
    def key(self) -> str:
        return f"{self.backend}:{self.name}"


@frozen
class Legalization:
    """How one ONNX operator becomes tensor operators.

    Args:
        op_type: the ONNX operator type.
        rule: the legalisation rule; same signature as the rules in `tilewright.frontend.legalize`.
        domain: operator domain; the empty string is ONNX's own.
        since: first opset version of the domain that the rule understands.
    """

    kind: ClassVar[str] = "legalization"
    op_type: str = field(validator=instance_of(str))
    rule: Reference = field(validator=check_reference)
    domain: str = ""
    since: int = 1

    @property
    def key(self) -> str:
        return f"{self.domain}::{self.op_type}@{self.since}"

    @property
    def name(self) -> str:
        return self.key


@frozen
class Options:
    """The options of a plugin: the table `[options.NAME]` of a configuration.

    Args:
        name: the table's name.
        cls: a frozen attrs class; its field types are enforced, a field without a default must be given.
    """

    kind: ClassVar[str] = "options"
    name: str = field(validator=_check_name)
    cls: Reference = field(validator=check_reference)

    @property
    def key(self) -> str:
        return self.name


Record = SlotValue | Pass | RecipeEntry | Backend | DeviceEntry | Legalization | Options


@frozen
class Target:
    """A parsed target string.

    Args:
        backend: name of the `Backend` record.
        device: what follows the colon, made definite by whoever recognised it: `cpu` becomes `cpu:znver4`.
    """

    backend: str = field(validator=_check_name)
    device: str = field(validator=_check_name)

    def __str__(self) -> str:
        return f"{self.backend}:{self.device}"
