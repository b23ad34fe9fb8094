"""What the CPU's recipes share: vector widths, work formulas, block sizes."""

from __future__ import annotations

import math

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.bounds import bounds_of
from tilewright.ir.expr import Apply, Const, Expr, Load, apply, const, number_of, walk
from tilewright_backends.lower.flat import FlatSpec, coefficient

REGION_SECONDS = 3e-6
"""Cost of a parallel region of a few threads; a kernel of one task is a plain call."""

_NEAR, _FAR = 4, 13
"""What the load of an element counts when its neighbour in the vector is up to four elements away, or farther."""

_FUNCTIONS = frozenset(
    "pow exp log sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf sqrt rsqrt div floormod".split()  # noqa: SIM905
)


@attrs.frozen
class Loops:
    """A kernel as loops over its spatial points.

    Args:
        outer: axes that are fused in one loop.
        inner: the axis of the loop inside, "" when there is no spatial axis.
    """

    spec: FlatSpec
    outer: tuple[str, ...]
    inner: str

    @property
    def outer_points(self) -> int:
        """Points of the outer axes by the bounds of the symbols."""
        return largest(self.spec, self.outer_count)

    @property
    def inner_points(self) -> int:
        """Points of the inner axis by the bounds of the symbols."""
        return largest(self.spec, self.inner_count)

    @property
    def reduce_points(self) -> int:
        """Points of the reduce axes, the axis of a scan among them, by the bounds of the symbols."""
        return largest(self.spec, number_of(x.extent for x in self.spec.reduce))

    @property
    def outer_count(self) -> Expr:
        """Points of the outer axes by the values of the symbols."""
        return number_of(axis_extents(self.spec, self.outer))

    @property
    def inner_count(self) -> Expr:
        """Points of the inner axis by the values of the symbols."""
        return number_of(axis_extents(self.spec, (self.inner,) if self.inner else ()))

    def roles(self, reduce: str) -> dict[str, tuple[str, ...]]:
        """The axes by role, the reduce axes under the name `reduce`."""
        inner = (self.inner,) if self.inner else ()
        return {"outer": self.outer, "inner": inner, reduce: tuple(x.name for x in self.spec.reduce)}


def is_static(spec: FlatSpec) -> bool:
    """Whether every extent is a literal."""
    return all(isinstance(x.extent, Const) for x in spec.axes)


def extent(spec: FlatSpec, name: str) -> int:
    """The static extent of an axis."""
    (axis,) = (x for x in spec.axes if x.name == name)
    assert isinstance(axis.extent, Const)
    return int(axis.extent.value)


def axis_extents(spec: FlatSpec, names: tuple[str, ...]) -> tuple[Expr, ...]:
    """The extents of axes as expressions."""
    known = {x.name: x.extent for x in spec.axes}
    return tuple(known[x] for x in names)


def largest(spec: FlatSpec, count: Expr) -> int:
    """The largest value of a number of points."""
    return bounds_of(count, spec.symbol_bounds).high


def bounds(spec: FlatSpec, names: tuple[str, ...]) -> tuple[int, ...]:
    """The largest extents of axes."""
    return tuple(largest(spec, x) for x in axis_extents(spec, names))


def extents(spec: FlatSpec, names: tuple[str, ...]) -> tuple[int, ...]:
    """The static extents of axes."""
    return tuple(extent(spec, x) for x in names)


def widest_bytes(spec: FlatSpec) -> int:
    """Bytes of the widest element that the kernel computes with, in registers. Addresses do not count."""
    widest = 1
    for expr in spec.pointwise():
        for node in walk(expr):
            if isinstance(node, Load | Apply) and node.dtype != "bool":
                widest = max(widest, carried_bytes(node.dtype))
    return widest


def carried_bytes(dtype: str) -> int:
    """Bytes of an element in a register: half types are carried in float32."""
    return 4 if dtype in ("float16", "bfloat16") else dtypes.size_of(dtype)


def full_lanes(spec: FlatSpec, device: DeviceModel) -> int:
    """Lanes of the device's vectors for this kernel."""
    return max(device.vector_bytes // widest_bytes(spec), 1)


def lanes_for(points: int, full: int) -> int:
    """Lanes for a run of `points`: a shorter vector where the run does not fill a full one."""
    lanes = 1
    while lanes < full and lanes < points:
        lanes *= 2
    return lanes


def vector_score(spec: FlatSpec, name: str) -> int:
    """How well an axis suits as the one that lanes run along; higher is better."""
    score = 0
    for store in spec.stores:
        stride = coefficient(store.address, name)
        score += {1: 8, 0: -8}.get(stride if stride is not None else -1, -4)
    for slot, read in enumerate(spec.reads):
        stride = coefficient(read.address, name)
        weight = 2 if slot < spec.body_reads else 1
        cost = {1: 2, 0: 1, 2: 0, 3: 0, 4: 0}.get(stride if stride is not None else -1, -3)
        score += weight * cost
    return score


def operations(*exprs: Expr) -> int:
    """Weighted count of the operations at one point; elementary functions count ten."""
    seen: set[Expr] = set()
    total = 0
    for expr in exprs:
        for node in walk(expr):
            if node not in seen and isinstance(node, Apply):
                total += 10 if node.op in _FUNCTIONS else 1
            seen.add(node)
    return total


def load_cost(stride: int | None) -> int:
    """Operations that the load of an element counts: one where the lanes of a vector share it or lie side by side.

    Args:
        stride: to the neighbour in the vector; None when there is no fixed one.
    """
    if stride in (0, 1):
        return 1
    return _NEAR if stride is not None and 0 < stride <= 4 else _FAR


def sizes(limit: int, step: int = 1) -> tuple[int, ...]:
    """Candidate block sizes: step, 2·step, 4·step, … and everything in one block; one step when there is nothing."""
    last = max(math.ceil(limit / step), 1) * step
    found = {last}
    size = step
    while size < last:
        found.add(size)
        size *= 2
    return tuple(sorted(found))


def ceil_div(a: Expr | int, b: Expr | int) -> Expr:
    """⌈a / b⌉ as a formula; at least one block, for a kernel has a task even when it has no points."""
    a = const(max(a, 1)) if isinstance(a, int) else a
    b = const(b) if isinstance(b, int) else b
    return apply("floordiv", a + b - 1, b)
