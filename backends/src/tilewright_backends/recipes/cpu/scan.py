"""`cpu.scan`: recurrences, serial along their axis, lanes along a spatial one where memory is contiguous there."""

from __future__ import annotations

import attrs

from tilewright.device import DeviceModel
from tilewright.ir.expr import const
from tilewright.ir.ops import ScanOp
from tilewright.recipes import Match, Parameter, Recipe, Usage, Work
from tilewright_backends.lower.flat import coefficient, flatten_scan
from tilewright_backends.recipes.cpu.common import (
    Loops,
    ceil_div,
    extent,
    full_lanes,
    is_static,
    lanes_for,
    operations,
    sizes,
)
from tilewright_backends.recipes.operands import memory_bytes, operands_of

NAME = "cpu.scan"


@attrs.frozen
class Scan(Loops):
    """The recurrence at each point of `outer` and `inner`.

    Args:
        spec: see `flatten_scan`.
        states: how many states there are.
        contiguous: whether `inner` suits lanes.
    """

    states: int
    contiguous: bool


def scan_of(op: ScanOp) -> Scan | None:
    """The scan of an operator, or None when it has symbolic extents."""
    spec = flatten_scan(op)
    if not is_static(spec):
        return None
    names = [x.name for x in spec.spatial]
    along = [x for x in names if all(coefficient(s.address, x) == 1 for s in spec.stores)]
    inner = along[-1] if along else max(names, key=lambda x: extent(spec, x), default="")
    return Scan(spec, tuple(x for x in names if x != inner), inner, len(op.init), bool(along))


def match(op: ScanOp, device: DeviceModel) -> Match | None:
    """The operator as a scan: lanes, and blocks of both spatial dimensions per task."""
    scan = scan_of(op)
    if scan is None:
        return None
    spec = scan.spec
    lanes = lanes_for(scan.inner_points, full_lanes(spec, device)) if scan.contiguous else 1
    parameters = (
        Parameter("lanes", (lanes,)),
        Parameter("outer.block", sizes(scan.outer_points), role="outer", level="block"),
        Parameter("inner.block", sizes(scan.inner_points, lanes), align=lanes, role="inner", level="block"),
    )
    tasks = ceil_div(scan.outer_points, parameters[1].var) * ceil_div(scan.inner_points, parameters[2].var)
    per_step = operations(*spec.body, *(s.expr for s in spec.stores)) + len(spec.reads) + len(spec.stores)
    roles = scan.roles("steps")
    blocks = {"outer": parameters[1].var, "inner": parameters[2].var, "steps": const(scan.reduce_points)}
    return Match(
        recipe=NAME,
        roles=roles,
        extents={"outer": scan.outer_points, "inner": scan.inner_points, "steps": scan.reduce_points},
        parameters=parameters,
        constraints=(),
        usage=Usage(tasks=tasks),
        work=Work(
            flops=const(scan.outer_points * scan.inner_points * scan.reduce_points * per_step),
            traffic={"dram": const(memory_bytes(spec))},
            efficiency=const(25 if lanes > 1 else 5),  # each step waits for the one before
            serial=tasks * 2,
        ),
        operands=operands_of(spec, roles),
        tiles={"block": blocks},
        detail=scan,
    )


RECIPE = Recipe(NAME, "cpu", match, priority=0, takes=ScanOp)
