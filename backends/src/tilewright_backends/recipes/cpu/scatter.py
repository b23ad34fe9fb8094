"""`cpu.scatter`: a copy of the base, then the updates in the order of the domain.

Tasks share out a dimension of the result in which each update stays where its own axis says; then no two tasks touch
one element. Where there is none (every index comes from memory), one task does it all.
"""

from __future__ import annotations

import math

import attrs

from tilewright.device import DeviceModel
from tilewright.ir.expr import Const, Var, const, loads, variables
from tilewright.recipes import Match, Parameter, Recipe, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.lower.flat import FlatSpec, coefficient, flatten
from tilewright_backends.recipes.cpu.common import (
    ceil_div,
    extent,
    extents,
    full_lanes,
    is_static,
    lanes_for,
    operations,
    sizes,
)
from tilewright_backends.recipes.operands import memory_bytes, operands_of

NAME = "cpu.scatter"


@attrs.frozen
class Region:
    """Where a store's value is cut: into blocks of dimension `dim` of its `shape`."""

    shape: tuple[int, ...]
    dim: int


@attrs.frozen
class Scatter:
    """The kernel as nested loops over `loops`, inside of which lanes run along `inner`.

    Args:
        shared: axis that tasks share out, "" when there is one task.
        regions: for each store, what a task owns.
        points: extent of the dimension that is shared out: at least that of the axis.
        loops: the axes in the order of the domain, without `inner`.
        inner: axis of the lanes, "" when points are computed one by one.
    """

    spec: FlatSpec
    shared: str
    regions: tuple[Region, ...]
    points: int
    loops: tuple[str, ...]
    inner: str


def scatter_of(kernel: KernelSpec) -> Scatter | None:
    """The scatter of a kernel, or None when it does not scatter, reduces, or has symbolic extents."""
    spec = flatten(kernel)
    shapes = [x.write.value.shape for x in kernel.stores]
    if not is_static(spec) or spec.combiner is not None or not all(isinstance(n, Const) for x in shapes for n in x):
        return None
    if not spec.scatters:
        return None
    free = _free_axes(kernel, spec)
    largest = max(free, key=lambda name: (extent(spec, name), -list(free).index(name)), default="")
    regions = tuple(
        Region(tuple(int(n.value) for n in shape if isinstance(n, Const)), free[largest][i] if largest else 0)
        for i, shape in enumerate(shapes)
    )
    points = max((x.shape[x.dim] for x in regions), default=1) if largest else 1
    inner = _lane_axis(spec, tuple(free))
    loops = tuple(x.name for x in spec.spatial if x.name != inner)
    return Scatter(spec, largest, regions, points, loops, inner)


def _free_axes(kernel: KernelSpec, spec: FlatSpec) -> dict[str, tuple[int, ...]]:
    """Axes that stand alone in a dimension of every store, and which dimension of each store that is."""
    found: dict[str, tuple[int, ...]] = {}
    for axis in spec.spatial:
        dims = [[d for d, at in enumerate(s.write.index) if at == Var(axis.name)] for s in kernel.stores]
        if all(dims):
            found[axis.name] = tuple(x[0] for x in dims)
    return found


def _lane_axis(spec: FlatSpec, free: tuple[str, ...]) -> str:
    """A free axis along which every result is contiguous: its lanes never meet in one element."""
    for name in free:
        moving = _dependent(spec, name)
        if all(coefficient(s.address, name) == 1 and not loads(s.address) & moving for s in spec.stores):
            return name
    return ""


def _dependent(spec: FlatSpec, name: str) -> frozenset[int]:
    """Slots of the reads whose element depends on an axis."""
    found: set[int] = set()
    for slot, read in enumerate(spec.reads):
        if name in variables(read.address, read.guard) or loads(read.address, read.guard) & found:
            found.add(slot)
    return frozenset(found)


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as a scatter: how much of the shared dimension a task owns."""
    scatter = scatter_of(kernel)
    if scatter is None:
        return None
    spec = scatter.spec
    points = extent(spec, scatter.inner) if scatter.inner else 1
    lanes = lanes_for(points, full_lanes(spec, device))
    parameters = (
        Parameter("lanes", (lanes,)),
        Parameter("block", sizes(scatter.points, lanes), align=lanes, role="shared", level="block"),
    )
    tasks = ceil_div(scatter.points, parameters[1].var)
    updates = math.prod(extents(spec, tuple(x.name for x in spec.spatial)))
    shared = (scatter.shared,) if scatter.shared else ()
    roles = {"shared": shared, "updates": tuple(x.name for x in spec.spatial if x.name != scatter.shared)}
    points_of_shared = math.prod(extents(spec, shared))
    cost = operations(*spec.body, *(s.address for s in spec.stores)) + 8
    return Match(
        recipe=NAME,
        roles=roles,
        extents={"shared": scatter.points, "updates": updates // points_of_shared},
        parameters=parameters,
        constraints=(),
        usage=Usage(tasks=tasks),
        work=Work(
            flops=const(updates * cost),
            traffic={"dram": const(memory_bytes(spec))},
            efficiency=const(25 if lanes > 1 else 5),
            serial=tasks * 2,
        ),
        operands=operands_of(spec, roles),
        tiles={"block": {"shared": parameters[1].var, "updates": const(updates)}},
        detail=scatter,
    )


RECIPE = Recipe(NAME, "cpu", match, priority=0)
