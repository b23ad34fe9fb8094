"""`scan`: recurrences, serial along their axis; lanes share a point where the step is associative."""

from __future__ import annotations

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.expr import Apply, Const, Expr, Var, const, select, variables
from tilewright.ir.ops import ScanOp
from tilewright.recipes import Match, Usage, Work
from tilewright_backends.lower.flat import FlatSpec, coefficient, flatten_scan
from tilewright_backends.recipes.gpu.common import (
    arranged,
    block_limits,
    ceil_div,
    divides,
    on_gpus,
    operations,
    parameter,
    points,
    powers,
)
from tilewright_backends.recipes.operands import memory_bytes, operands_of

NAME = "scan"
_ASSOCIATIVE = frozenset(["add", "mul", "min", "max"])
"""Operators that may join steps in another order; all of them commute."""


@attrs.frozen
class Scan:
    """A recurrence at each point of the spatial axes.

    Args:
        spec: see `flatten_scan`; the spatial axis along the result's memory, if there is one, is the last.
        states: how many states there are.
        term: where each step is `p0 ∘ term` with one of the associative operators, that term.
    """

    spec: FlatSpec
    states: int
    term: Expr | None

    @property
    def steps(self) -> int:
        return points(self.spec.reduce)


def scan_of(op: ScanOp) -> Scan | None:
    """The scan of an operator, or None when it has symbolic extents."""
    spec = arranged(flatten_scan(op))
    fixed = all(isinstance(x.extent, Const) for x in spec.axes)
    return None if not fixed else Scan(spec, len(op.init), _term(spec.body[len(op.init) :]))


def _term(step: tuple[Expr, ...]) -> Expr | None:
    if len(step) != 1 or not isinstance(step[0], Apply) or step[0].op not in _ASSOCIATIVE:
        return None
    left, right = step[0].args
    for state, term in ((left, right), (right, left)):
        if isinstance(state, Var) and state.name == "p0" and "p0" not in variables(term):
            return term
    return None


def match(op: ScanOp, device: DeviceModel) -> Match | None:
    """The operator as a scan: points of a block, and threads that share a point."""
    scan = scan_of(op)
    if scan is None:
        return None
    spec, steps, total = scan.spec, scan.steps, points(scan.spec.spatial)
    widest = min(device.warp, 1 << max(steps - 1, 0).bit_length()) if scan.term is not None else 1
    parameters = (
        parameter("x.block", powers(1, 256), role="x", level="block"),
        parameter("lanes", powers(1, widest), role="t", level="block"),
    )
    block, lanes = (p.var for p in parameters)
    threads = block * lanes
    registers = const(40 + 4 * len(spec.reads) + 4 * scan.states)
    tasks = ceil_div(total, block)
    trips = ceil_div(steps, lanes)
    shared = const(1) < lanes
    per_step = operations(*spec.body, *(s.expr for s in spec.stores)) + len(spec.reads) + len(spec.stores)
    near = lanes if _along_steps(spec) else const(device.warp) // lanes
    roles = {"x": tuple(x.name for x in spec.spatial), "t": tuple(x.name for x in spec.reduce)}
    return Match(
        recipe=f"{device.kind}.{NAME}",
        roles=roles,
        extents={"x": total, "t": steps},
        parameters=parameters,
        constraints=(
            divides(lanes, widest, "lanes are a power of two within a warp, 1 where the step is not associative"),
            *block_limits(threads, registers, const(0), device),
        ),
        usage=Usage(tasks, threads, registers),
        work=Work(
            # An exchange among the lanes takes two operations for each doubling of the distance.
            flops=tasks * threads * trips * (const(per_step) + select(shared, const(14), const(0))),
            traffic={
                "dram": const(memory_bytes(spec)),
                # Loads of fewer than eight neighbouring threads waste part of each sector.
                "l2": const(_bytes(spec, total * steps)) * select(near < 8, ceil_div(8, near), const(1)),
            },
            efficiency=const(15),
            serial=trips * select(shared, const(6), const(1)) // 2,
        ),
        operands=operands_of(spec, roles),
        tiles={"block": {"x": block, "t": lanes}},
        detail=scan,
    )


def _bytes(spec: FlatSpec, steps: int) -> int:
    values = [x.value for x in spec.reads] + [x.value for x in spec.stores]
    return sum(dtypes.size_of(x.dtype) for x in values) * steps


def _along_steps(spec: FlatSpec) -> bool:
    """Whether neighbouring steps lie side by side in the result, and not neighbouring points."""
    if not spec.reduce:
        return False
    steps = [coefficient(s.address, spec.reduce[-1].name) for s in spec.stores]
    return all(x in (1, -1) for x in steps)


CUDA, ROCM = on_gpus(NAME, match, 0, takes=ScanOp)
