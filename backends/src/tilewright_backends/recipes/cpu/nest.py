"""`cpu.nest`: a plain loop nest, lanes along one spatial axis, reductions serial at every point.

It takes any kernel without scatter: element-wise and data movement, windows (pooling, depthwise convolution), column
reductions, and whatever no better recipe matches.
"""

from __future__ import annotations

import math

from tilewright.device import DeviceModel
from tilewright.ir.expr import const
from tilewright.recipes import Constraint, Match, Parameter, Recipe, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.lower.flat import coefficient, flatten, merge_axes
from tilewright_backends.recipes.cpu.common import (
    Loops,
    ceil_div,
    full_lanes,
    is_static,
    lanes_for,
    largest,
    load_cost,
    operations,
    sizes,
    vector_score,
)
from tilewright_backends.recipes.operands import memory_bytes, operands_of

NAME = "cpu.nest"
MAX_UNROLLED = 32
"""Reduction points that are written out one by one, so that guards and addresses of each are literals."""


def nest_of(kernel: KernelSpec) -> Loops | None:
    """The loops of a kernel, lanes along the inner one, or None when the kernel scatters."""
    spec = merge_axes(flatten(kernel))
    if spec.scatters:
        return None
    names = [x.name for x in spec.spatial]
    if not names:
        return Loops(spec, (), "")
    sizes_ = {x.name: largest(spec, x.extent) for x in spec.spatial}
    inner = max(names, key=lambda name: (vector_score(spec, name), min(sizes_[name], 16), names.index(name)))
    return Loops(spec, tuple(x for x in names if x != inner), inner)


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as a nest: lanes, points side by side, and blocks of both dimensions per task."""
    nest = nest_of(kernel)
    if nest is None:
        return None
    spec = nest.spec
    lanes = lanes_for(nest.inner_points, full_lanes(spec, device)) if nest.inner else 1
    reducing = spec.combiner is not None
    unrolls = tuple(u for u in (1, 2, 4) if u == 1 or (reducing and u * lanes <= nest.inner_points))
    parameters = (
        Parameter("lanes", (lanes,)),
        Parameter("unroll", unrolls, role="inner", level="register"),
        Parameter("outer.block", sizes(nest.outer_points), role="outer", level="block"),
        Parameter("inner.block", sizes(nest.inner_points, 4 * lanes), align=4 * lanes, role="inner", level="block"),
    )
    unroll, outer_block, inner_block = (p.var for p in parameters[1:])
    tasks = ceil_div(nest.outer_points, outer_block) * ceil_div(nest.inner_points, inner_block)
    padded = nest.outer_points * math.ceil(nest.inner_points / lanes) * lanes
    loaded = sum(load_cost(coefficient(x.address, nest.inner)) for x in spec.reads)
    per_point = operations(*spec.body) + loaded + (2 * len(spec.body) if reducing else 0)
    flops = padded * (nest.reduce_points * per_point + operations(*(s.expr for s in spec.stores)))
    vectorised = vector_score(spec, nest.inner) >= 0 if nest.inner else False
    work = Work(
        flops=const(flops),
        traffic={"dram": const(memory_bytes(spec))},
        efficiency=const(25 if vectorised else 5) + unroll * (2 if vectorised else 0),
        serial=tasks * 2,
    )
    roles = nest.roles("reduce")
    count = ceil_div(nest.outer_points, outer_block) * ceil_div(nest.inner_count, inner_block)
    return Match(
        recipe=NAME,
        roles=roles,
        extents={"outer": nest.outer_points, "inner": nest.inner_points, "reduce": nest.reduce_points},
        parameters=parameters,
        constraints=(Constraint(inner_block % (unroll * lanes), const(0), "the block in whole groups of vectors"),),
        usage=Usage(tasks=tasks),
        work=work,
        operands=operands_of(spec, roles),
        tiles={
            "register": {"inner": unroll * lanes},
            "block": {"outer": outer_block, "inner": inner_block, "reduce": const(nest.reduce_points)},
        },
        count=None if is_static(spec) else count,
        detail=nest,
    )


RECIPE = Recipe(NAME, "cpu", match, priority=0)
