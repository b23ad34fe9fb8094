"""`cuda.reduce`: a team of threads per output point; one thread is the plain serial loop that runs every kernel."""

from __future__ import annotations

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.bounds import bounds_of, linear_terms
from tilewright.ir.expr import Var, const, select
from tilewright.recipes import Match, Recipe, Usage, Work
from tilewright.views.kernel import KernelSpec
from tilewright_backends.lower.flat import FlatAccess, FlatSpec
from tilewright_backends.recipes.cuda.common import (
    block_limits,
    ceil_div,
    counted,
    divides,
    memory_bytes,
    most,
    operations,
    parameter,
    powers,
    symbolic_spec,
)
from tilewright_backends.recipes.operands import operands_of

NAME = "cuda.reduce"


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
    state_bytes = sum(max(dtypes.size_of(d), 4) for d in combiner.dtypes)
    rows = select(const(warp) < lanes, lanes // warp, const(0)) if teams.along_reduction else lanes
    shared = select(const(1) < lanes, block * rows * state_bytes + 16 * len(combiner.dtypes), const(0))
    registers = const(40 + 4 * len(spec.reads) + 2 * len(combiner.dtypes))
    threads = block * lanes
    per_point = operations(*spec.body) + operations(*combiner.combine) + len(spec.reads)
    per_thread = ceil_div(steps, lanes)
    near = lanes if teams.along_reduction else block
    roles = {"x": tuple(x.name for x in spec.spatial), "k": tuple(x.name for x in spec.reduce)}
    return Match(
        recipe=NAME,
        roles=roles,
        extents={"x": total, "k": steps},
        parameters=parameters,
        constraints=(
            divides(lanes, 1024, "lanes are a power of two"),
            *block_limits(threads, registers, shared, device),
        ),
        usage=Usage(ceil_div(total, block), threads, registers, shared),
        work=Work(
            flops=ceil_div(total, block) * threads * per_thread * per_point,
            traffic={
                "dram": const(memory_bytes(spec)),
                # Loads of fewer than eight neighbouring threads waste part of each sector.
                "l2": const(_read_bytes(spec, total * steps)) * select(near < 8, ceil_div(8, near), const(1)),
            },
            efficiency=const(25),
            serial=per_thread // 4 + select(const(1) < lanes, const(8), const(1)),
        ),
        operands=operands_of(spec, roles),
        tiles={"block": {"x": block, "k": lanes}},
        count=ceil_div(counted(spec.spatial), block) if spec.symbols else None,
        detail=teams,
    )


def _read_bytes(spec: FlatSpec, steps: int) -> int:
    return sum(dtypes.size_of(x.value.dtype) for x in spec.reads[: spec.body_reads]) * steps


def _along_reduction(spec: FlatSpec) -> bool:
    """Whether neighbouring reduction steps lie closer in memory than neighbouring points, for the largest operand."""
    reads = spec.reads[: spec.body_reads]
    if not reads or not spec.reduce:
        return True
    if not spec.spatial:
        return True
    access = max(reads, key=lambda r: bounds_of(r.value.num_elements(), spec.symbol_bounds).high)
    inner_k, inner_x = spec.reduce[-1].name, spec.spatial[-1].name
    of_k, of_x = _step(access, inner_k), _step(access, inner_x)
    if of_x == 1:
        return False
    return of_k == 1 or of_x == 0 or (of_k != 0 and abs(of_k) < abs(of_x))


def _step(access: FlatAccess, axis: str) -> int:
    """Elements per step along an axis, as far as the address is linear in it."""
    return sum(factor for factor, term in linear_terms(access.address) if term == Var(axis))


RECIPE = Recipe(NAME, "cuda", match, priority=0)
