"""`reduce`: a team of threads per output point; one thread is the plain serial loop that runs every kernel."""

from __future__ import annotations

import attrs
import numpy as np

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.bounds import bounds_of
from tilewright.ir.expr import Expr, all_of, apply, const, loads, select, variables
from tilewright.recipes import Match, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.lower.flat import FlatAccess, FlatSpec
from tilewright_backends.recipes.gpu.common import (
    block_limits,
    ceil_div,
    counted,
    divides,
    most,
    on_gpus,
    operations,
    parameter,
    powers,
    symbolic_spec,
)
from tilewright_backends.recipes.gpu.sectors import SECTOR, WARP, by_step, delivered, digits, sampled, touched
from tilewright_backends.recipes.gpu.slices import RowSlice, row_slices, slices
from tilewright_backends.recipes.operands import memory_bytes, operands_of

NAME = "reduce"
_DIVISION = 6
"""Operations of a division by a literal and of its remainder."""


@attrs.frozen
class Teams:
    """How the threads of a block lie: `along_reduction` puts the lanes of one point side by side."""

    spec: FlatSpec
    along_reduction: bool


def teams_of(kernel: KernelSpec) -> Teams | None:
    """The specification and thread order for a reduction, or None when the kernel is none."""
    spec = symbolic_spec(kernel)
    if spec.combiner is None or spec.scatters:
        return None
    return Teams(spec, _along_reduction(spec))


def match(kernel: KernelSpec, device: DeviceModel) -> Match | None:
    """The kernel as this recipe sees it, or None when it is not of its kind."""
    teams = teams_of(kernel)
    if teams is None:
        return None
    spec = teams.spec
    combiner = spec.combiner
    assert combiner is not None
    steps, total = most(spec, spec.reduce), most(spec, spec.spatial)
    shareable = combiner.associative and combiner.commutative
    widest = min(device.max_threads_per_block, 1 << max(steps - 1, 0).bit_length()) if shareable else 1
    parameters = (
        parameter("x.block", powers(1, 256), role="x", level="block"),
        parameter("lanes", powers(1, widest), role="k", level="block"),
    )
    block, lanes = (p.var for p in parameters)
    warp = device.warp
    near = lanes if teams.along_reduction else block
    state_bytes = sum(max(dtypes.size_of(d), 4) for d in combiner.dtypes)
    rows = select(const(warp) < lanes, lanes // warp, const(0)) if teams.along_reduction else _rows(block, lanes, warp)
    shared = select(const(1) < lanes, block * rows * state_bytes + 16 * len(combiner.dtypes), const(0))
    # A thread that goes through a reduction by itself has several steps of it in hand.
    alone, together = (x + y * len(spec.reads) + 2 * len(combiner.dtypes) for x, y in ((40, 4), (24, 3)))
    registers = select(const(1) < lanes, const(together), const(alone))
    threads = block * lanes
    per_point = operations(*spec.body) + operations(*combiner.combine) + len(spec.reads)
    per_step = select(const(1) < lanes, const(per_point + splitting(spec)), const(per_point + _guarded(spec)))
    per_thread = ceil_div(steps, lanes)
    divisions = _DIVISION * max(len(spec.spatial) - 1, 0)
    finish = 2 * operations(*(s.expr for s in spec.stores))
    roles = {"x": tuple(x.name for x in spec.spatial), "k": tuple(x.name for x in spec.reduce)}
    return Match(
        recipe=f"{device.kind}.{NAME}",
        roles=roles,
        extents={"x": total, "k": steps},
        parameters=parameters,
        constraints=(
            divides(lanes, 1024, "lanes are a power of two"),
            *block_limits(threads, registers, shared, device),
        ),
        usage=Usage(ceil_div(total, block), threads, registers, shared),
        work=Work(
            flops=ceil_div(total, block) * threads * (per_thread * per_step + divisions) + total * finish,
            traffic={"dram": const(memory_bytes(spec)), **_cached(spec, total, steps, teams.along_reduction, near)},
            efficiency=const(25),
            serial=per_thread // 4 + select(const(1) < lanes, const(8), const(1)),
        ),
        operands=operands_of(spec, roles, windows=_windows(spec)),
        tiles={"block": {"x": block, "k": lanes}},
        slices=slices(slices_of(spec, kernel), total, "x.block"),
        count=ceil_div(counted(spec.spatial), block) if spec.symbols else None,
        detail=teams,
    )


def _rows(points: Expr, lanes: Expr, warp: int) -> Expr:
    """States of a point that are left when those lanes have met that are in a warp, which powers of two do."""
    meets = all_of(apply("floormod", const(warp), points) < const(1), const(warp) <= points * lanes)
    assert meets is not None
    return select(meets, lanes * points // warp, lanes)


def slices_of(spec: FlatSpec, kernel: KernelSpec) -> tuple[RowSlice, ...]:
    """The reads of constants that tasks share out by points."""
    return row_slices(spec.reads, spec.spatial, spec.bounds(), kernel.constants)


def _guarded(spec: FlatSpec) -> int:
    """Operations per step for guards, of which unrolled loops share the rest."""
    return sum(x.guard is not None for x in spec.reads[: spec.body_reads])


def splitting(spec: FlatSpec) -> int:
    """Operations per step where lanes split several axes: divisions of the step's number, addresses and guards anew."""
    if len(spec.reduce) < 2:
        return _guarded(spec)
    reads = spec.reads[: spec.body_reads]
    placed = operations(*(x.address for x in reads), *(x.guard for x in reads if x.guard is not None))
    return _DIVISION * (len(spec.reduce) - 1) + placed


def _cached(spec: FlatSpec, total: int, steps: int, along_reduction: bool, near: Expr) -> dict[str, Expr]:
    """Bytes through both caches; `near` threads lie along the reduction, or along the points."""
    issued = -(-total * steps // WARP)
    far: Expr = const(0)
    close: Expr = const(0)
    reads = spec.reads[: spec.body_reads]
    windows = _windows(spec)
    for slot, access in enumerate(reads):
        sectors = {n: _sectors(spec, access, n, along_reduction) for n in powers(1, WARP)}
        # What many points share is evicted between their reads, unless they are neighbours' windows.
        least = 0 if windows else WARP * dtypes.size_of(access.value.dtype)
        moved = {n: int(issued * max(x * SECTOR, least)) for n, x in sectors.items()}
        if slot in windows:
            # Only neighbours read an element again, and find it in the first-level cache.
            once = bounds_of(access.value.num_elements(), spec.symbol_bounds).high * dtypes.size_of(access.value.dtype)
            moved = {n: min(x, once) for n, x in moved.items()}
        far = far + by_step(near, moved)
        close = close + by_step(near, {n: delivered(issued, x) for n, x in sectors.items()})
    return {"l2": far, "shared": close}


def _windows(spec: FlatSpec) -> tuple[int, ...]:
    """The reads of the body whose elements only neighbouring points share."""
    return tuple(i for i, x in enumerate(spec.reads[: spec.body_reads]) if _is_window(spec, x))


def _is_window(spec: FlatSpec, access: FlatAccess) -> bool:
    """Whether neighbouring points share elements of an access, and distant ones share none."""
    moving = variables(access.address)
    if loads(access.address) or not all(x.name in moving for x in spec.spatial):
        return False
    return most(spec, spec.axes) > bounds_of(access.value.num_elements(), spec.symbol_bounds).high


def _sectors(spec: FlatSpec, access: FlatAccess, near: int, along_reduction: bool) -> float:
    """Sectors per load of a warp of which `near` threads lie along the reduction, or along the points."""
    thread = np.arange(WARP)
    inner, outer = thread % near, thread // near
    step, point = (inner, outer) if along_reduction else (outer, inner)
    first = sampled(most(spec, spec.spatial))[:, None]
    points, steps = first + point[None, :], np.broadcast_to(step, (len(first), WARP))
    return touched(spec, access, digits(spec, spec.spatial, points) | digits(spec, spec.reduce, steps))


def _along_reduction(spec: FlatSpec) -> bool:
    """Whether a warp's loads touch fewer sectors along the reduction than along the points."""
    reads = spec.reads[: spec.body_reads]
    if not reads or not spec.reduce or not spec.spatial:
        return True
    steps = most(spec, spec.reduce)
    lanes = min(WARP, 1 << max(steps.bit_length() - 1, 0))
    along = sum(_sectors(spec, x, lanes, True) for x in reads)
    return along < sum(_sectors(spec, x, WARP, False) for x in reads)


CUDA, ROCM = on_gpus(NAME, match, 0)
