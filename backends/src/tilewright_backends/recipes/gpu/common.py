"""What the GPU recipes share: specifications in the form that emitters want, limits, formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from tilewright.device import DeviceModel
from tilewright.ir.bounds import bounds_of
from tilewright.ir.expr import Apply, Const, Expr, apply, const, number_of, walk
from tilewright.ir.ops import Axis
from tilewright.ir.polynomial import canonical
from tilewright.recipes import Constraint, Match, Parameter, Recipe
from tilewright.views.kernel import KernelSpec
from tilewright.views.subject import Subject
from tilewright_backends.lower.flat import FlatSpec, coefficient, flatten, merge_axes

_SLOW = frozenset(
    [
        "pow",
        "exp",
        "log",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atanh",
        "erf",
        "div",
        "floormod",
    ]
)


def on_gpus(
    name: str,
    match: Callable[[Any, DeviceModel], Match | None],
    priority: int,
    takes: type[Subject] = KernelSpec,
) -> tuple[Recipe, Recipe]:
    """A recipe for CUDA and the same for ROCm; its matches are called `KIND.name` after the kind of the device."""
    return Recipe(f"cuda.{name}", "cuda", match, priority=priority, takes=takes), on_rocm(name, match, priority, takes)


def on_rocm(
    name: str,
    match: Callable[[Any, DeviceModel], Match | None],
    priority: int,
    takes: type[Subject] = KernelSpec,
) -> Recipe:
    """A recipe for ROCm."""
    return Recipe(f"rocm.{name}", "rocm", match, priority=priority, takes=takes)


def flat_spec(kernel: KernelSpec) -> FlatSpec | None:
    """The kernel with merged axes, the axis along the result's memory last; None when it depends on symbols."""
    return arranged(flatten(kernel)) if not kernel.symbols else None


def symbolic_spec(kernel: KernelSpec) -> FlatSpec:
    """The same of any kernel."""
    return arranged(flatten(kernel))


def arranged(spec: FlatSpec) -> FlatSpec:
    """A flat specification likewise."""
    spec = merge_axes(spec)
    along = [x for x in spec.spatial if spec.stores and coefficient(spec.stores[0].address, x.name) == 1]
    if not along:
        return spec
    rest = tuple(x for x in spec.spatial if x is not along[-1])
    return attrs.evolve(spec, axes=(*rest, along[-1], *spec.reduce))


def extent(axis: Axis) -> int:
    """The literal extent of an axis."""
    if not isinstance(axis.extent, Const):
        raise TypeError(f"axis {axis.name} has no literal extent: {axis.extent!r}")
    return int(axis.extent.value)


def points(axes: Sequence[Axis]) -> int:
    """Number of points of fused axes."""
    return math.prod(extent(x) for x in axes)


def operations(*exprs: Expr) -> int:
    """Weighted count of the operations at one point; elementary functions count ten."""
    nodes = {node for expr in exprs for node in walk(expr) if isinstance(node, Apply)}
    return sum(10 if node.op in _SLOW else 1 for node in nodes)


def counted(axes: Sequence[Axis]) -> Expr:
    """Number of points of fused axes by the values of the symbols."""
    return canonical(number_of(x.extent for x in axes))


def most(spec: FlatSpec, axes: Sequence[Axis]) -> int:
    """Number of points of fused axes by the bounds of the symbols."""
    return bounds_of(number_of(x.extent for x in axes), spec.symbol_bounds).high


def ceil_div(a: Expr | int, b: Expr | int) -> Expr:
    """⌈a / b⌉ as a formula; at least one, for a kernel has a task even when it has no points."""
    a = const(max(a, 1)) if isinstance(a, int) else a
    b = const(b) if isinstance(b, int) else b
    return apply("floordiv", a + b - 1, b)


def divides(divisor: Expr, number: Expr | int, why: str) -> Constraint:
    """`divisor` divides `number`."""
    number = const(number) if isinstance(number, int) else number
    return Constraint(apply("floormod", number, divisor), const(0), why)


def block_limits(threads: Expr, registers: Expr, shared: Expr, device: DeviceModel) -> tuple[Constraint, ...]:
    """What every block must meet."""
    return (
        Constraint(threads, const(device.max_threads_per_block), "threads of a block"),
        divides(const(device.warp), threads, "blocks are whole warps"),
        Constraint(registers * threads, const(device.registers_per_unit), "registers of a multiprocessor"),
        Constraint(registers, const(255), "registers of a thread"),
        Constraint(shared, const(device.shared_per_block), "shared memory of a block"),
    )


def powers(low: int, high: int) -> tuple[int, ...]:
    """Powers of two from `low` to `high`."""
    return tuple(1 << i for i in range(low.bit_length() - 1, high.bit_length()))


def parameter(name: str, candidates: Sequence[int], *, align: int = 1, role: str = "", level: str = "") -> Parameter:
    """A parameter with its candidates in order."""
    return Parameter(name, tuple(sorted(set(candidates))), align, role, level)
