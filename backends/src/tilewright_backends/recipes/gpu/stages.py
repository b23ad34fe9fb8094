"""`stages`: several loop nests in one kernel; a block takes a tile of the last one's results through all of them.

What passes from stage to stage stays in shared memory, with the halo that windows need, so products after depthwise
convolutions, convolutions after convolutions, pools and what is element-wise between them are one kernel. Halos are
computed by every block that needs them. Products of 16-bit floats run on tensor cores, others on the ordinary units.
"""

from __future__ import annotations

import math

import attrs

from tilewright.device import DeviceModel
from tilewright.ir import dtypes
from tilewright.ir.bounds import simplify
from tilewright.ir.expr import Apply, Const, Expr, const, number_of, select, variables
from tilewright.ir.ops import Axis, Value
from tilewright.recipes import Constraint, Match, Operand, Usage, Work, product
from tilewright.views.kernel import KernelSpec
from tilewright.views.staged import StagedSpec
from tilewright.views.tiles import Box, TileSpec, TileStage, box_of, tiles_of
from tilewright_backends.lower.flat import FlatSpec, flatten
from tilewright_backends.recipes.contraction import Contraction, contraction_of, plain_slot
from tilewright_backends.recipes.gpu.common import (
    block_limits,
    ceil_div,
    on_gpus,
    operations,
    parameter,
    points,
    powers,
)
from tilewright_backends.recipes.gpu.reduce import splitting
from tilewright_backends.recipes.gpu.stage_teams import shareable
from tilewright_backends.recipes.gpu.tensor import warp_unit
from tilewright_backends.recipes.rows import memory_bytes

NAME = "stages"
SIDE = 4
"""Points along each side of what a thread computes at a time of a product."""
HALVES = frozenset(["float16", "bfloat16"])
_PADDING, _BANKS = 8, 32
ROWS, COLUMNS, DEPTH = 16, 32, 16
"""What a warp computes at a time of a product on tensor cores, and the points it sums at once."""
_MOST_AXES = 5
_MOST_STAGES = 12
_REGISTERS = 96
_AHEAD = 512
"""Elements of an operand that a block has under way together, at most, for each point of its tile."""
UNROLLED = 16
"""Steps of a reduction up to which all are written out."""
_SHARING = 3
"""How often a step of a thread that computes several points waits: 0.1 µs on an H200, for eight loads of 16 points."""
_FEW_ROWS = 16
"""Rows of a product below which its weights are most of what it moves."""
_STAGE = 6
"""Steps of a stage besides its reduction: a barrier, and what is read and written on chip."""
_JOIN = 4
"""Steps that it takes to make one state of those that threads share, or to have a warp's first operands."""
_APART = 2
"""How much more of a thread's time a step takes where neighbours share no operand: an index and a load for each."""


def match(staged: StagedSpec, device: DeviceModel) -> Match | None:
    """The stages over tiles, or None when they are no chain of nests with a reduction among them."""
    tiles = tiles_of(staged) if len(staged.stages) <= _MOST_STAGES else None
    if tiles is None or not 0 < len(tiles.axes) <= _MOST_AXES or not any(x.combiner for x in staged.stages):
        return None
    if any(x.combiner is not None and not x.reduce for x in staged.stages):
        return None
    if any(map(_of_weights, tiles.stages[:-1])):
        return None
    parameters = (
        *(parameter(f"tile.{x.name}", _sizes(x), role=x.name, level="block") for x in tiles.axes),
        parameter("threads", (128, 256, 512, 1024)),
    )
    threads = parameters[-1].var
    extents = {x.name: int(x.extent.value) for x in tiles.axes if isinstance(x.extent, Const)}
    tasks = product([ceil_div(extents[x.name], TileSpec.size(x)) for x in tiles.axes])
    shared: Expr = const(0)
    for value, box in tiles.boxes.items():
        shared = shared + product(stored_shape(value, box)) * max(dtypes.size_of(value.dtype), 1) + 16
    states = {(i, max(dtypes.size_of(d), 4)) for x in staged.stages if shareable(x) for i, d in enumerate(_states(x))}
    shared = shared + threads * sum(size for _, size in states) + 16 * len(states)
    flops: Expr = const(0)
    steps: Expr = const(0)
    blocks: list[Expr] = []
    for stage in tiles.stages:
        work, alone = _stage_work(stage, threads, device)
        flops = flops + work
        steps = steps + alone
        if sides_of(stage.spec).columns:
            blocks.append(product([stage.domain[x.name].size for x in stage.spec.spatial]))
    # Threads that take several sums of a product have no registers for it where there are many.
    crowded = [
        Constraint(select(threads < const(1024), const(0), 2 * x), const(1024), "sums of 1024 threads") for x in blocks
    ]
    registers = select(threads < const(1024), const(_REGISTERS), const(64))
    inputs, operands = _moved(tiles)
    out = sum(math.prod(v.static_shape()) * dtypes.size_of(v.dtype) for v in staged.outputs)
    return Match(
        recipe=f"{device.kind}.{NAME}",
        roles={x.name: (x.name,) for x in tiles.axes},
        extents=extents,
        parameters=parameters,
        constraints=(
            *(Constraint(TileSpec.size(x), x.extent, "a tile is no larger than the result") for x in tiles.axes),
            *crowded,
            *block_limits(threads, registers, shared, device),
        ),
        usage=Usage(tasks, threads, registers, shared),
        work=Work(
            flops=tasks * flops,
            traffic={"dram": const(memory_bytes(staged)), "l2": tasks * inputs + out},
            efficiency=const(25),
            serial=steps + _STAGE * len(staged.stages),
        ),
        operands=operands,
        tiles={"block": {x.name: TileSpec.size(x) for x in tiles.axes}},
    )


def _of_weights(stage: TileStage) -> bool:
    """Whether a stage is a product of few rows with weights, which takes as long as reading these does. They are better
    read by a kernel that has its units' share of them only, which the units may keep."""
    spec = stage.spec
    if spec.combiner is None:
        return False
    outer, inner = ({x.name for x in axes} for axes in (spec.spatial, spec.reduce))
    weights = [variables(*x.index) for x in spec.reads[: spec.body_reads] if x.value.name in spec.constants]
    rows = [points([a for a in spec.spatial if a.name not in x]) for x in weights if x & outer and x & inner]
    return any(x < _FEW_ROWS for x in rows)


def _sizes(axis: Axis) -> list[int]:
    extent = points([axis])
    return sorted({*(x for x in powers(1, max(extent, 1)) if x <= extent), extent})


@attrs.frozen
class Sides:
    """The spatial axes of a stage: those that one operand of its product alone varies with, and all others.

    Args:
        rows: of the others, at least one varies with the other operand alone.
        columns: empty where the stage is no product of two operands with sides of their own.
    """

    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]


def _two_sided(spec: FlatSpec) -> Contraction | None:
    """A stage as a product of two operands with sides of their own."""
    found = contraction_of(spec) if spec.combiner is not None else None
    return found if found is not None and found.m and found.n else None


def sides_of(stage: KernelSpec) -> Sides:
    """How a thread's points lie: `SIDE` rows by `SIDE` columns of a product share what they load."""
    found = _two_sided(flatten(stage))
    if found is None:
        return Sides(stage.spatial, ())
    names = {x.name for x in found.n}
    rows = tuple(x for x in stage.spatial if x.name not in names)
    return Sides(rows, tuple(x for x in stage.spatial if x.name in names))


def stored_shape(value: Value, box: Box) -> tuple[Expr, ...]:
    """The shape of a box in shared memory: rows begin in different banks, as fragments of 16-bit floats want them, and
    teams whose lanes go along rows."""
    if not box:  # one number
        return ()
    *outer, last = (x.size for x in box)
    if value.dtype in HALVES:
        return (*outer, last + _PADDING)
    if outer and dtypes.size_of(value.dtype) == 4:
        # Lanes of several points, each with some neighbours of its row.
        last = simplify(last + select(last % _BANKS < 1, const(_PADDING), const(0)), {})
    return (*outer, last)


def tensor_factors(stage: KernelSpec) -> tuple[int, int] | None:
    """The reads that are the rows' and the columns' factor of a product for tensor cores; None when it is none.

    Both are 16-bit floats as they are stored, and the sum is kept in float32.
    """
    spec = flatten(stage)
    found = _two_sided(spec)
    if found is None or found.batch or found.state != "float32":
        return None
    slots = []
    for operand in (found.rows, found.columns):
        slot = plain_slot(operand.value)
        if slot is None or operand.slots != (slot,):
            return None
        slots.append(slot)
    kinds = {spec.reads[x].value.dtype for x in slots}
    whole = all(isinstance(x.value, Apply) and x.value.op == "cast" for x in (found.rows, found.columns))
    return (slots[0], slots[1]) if len(kinds) == 1 and kinds <= HALVES and whole else None


def _tensor_work(stage: TileStage, threads: Expr, device: DeviceModel, unit: str) -> tuple[Expr, Expr]:
    """Operations of a task in terms of the ordinary units', and steps of a warp that wait for each other."""
    spec = stage.spec
    sides = sides_of(spec)
    rows = product([stage.domain[x.name].size for x in sides.rows])
    columns = product([stage.domain[x.name].size for x in sides.columns])
    depth = ceil_div(points(spec.reduce), DEPTH)
    pieces = ceil_div(rows, ROWS) * ceil_div(columns, COLUMNS)
    quicker = max(int(device.peak.get(unit, 0) / device.peak["fma"]), 1)
    stored = operations(*(x.expr for x in spec.stores)) + 8
    flops = pieces * depth * (ROWS * COLUMNS * DEPTH * 2 // quicker) + rows * columns * stored
    return flops, ceil_div(pieces * depth * (4 * device.warp), threads) // 3 + _JOIN


def _stage_work(stage: TileStage, threads: Expr, device: DeviceModel) -> tuple[Expr, Expr]:
    """Operations of a task, and the steps of a thread that wait for each other.

    A step waits for its loads; where few steps are written out, three of them at a time.
    """
    spec = stage.spec
    factors = tensor_factors(spec)
    unit = None if factors is None else warp_unit(device, spec.reads[factors[0]].value.dtype)
    if unit is not None:
        return _tensor_work(stage, threads, device, unit)
    total = product([stage.domain[x.name].size for x in spec.spatial])
    reduced = number_of(x.extent for x in spec.reduce) if spec.reduce else const(1)
    each = operations(*spec.body, *(spec.combiner.combine if spec.combiner else ()))
    stored = operations(*(x.expr for x in spec.stores)) + 8
    side = SIDE * SIDE if sides_of(spec).columns else 1
    slow = 1 if side > 1 else _APART
    waited = reduced // 3 if points(spec.reduce) <= UNROLLED else reduced * (_SHARING if side > 1 else 1)
    steps: Expr = ceil_div(ceil_div(total, side), threads) * waited
    work: Expr = const(each * slow)
    if shareable(spec):
        # Lanes are a power of two: on average three quarters of the threads have a part. They find each step's place
        # anew.
        few = 2 * total <= threads
        steps = select(few, ceil_div(total * reduced * 4, 3 * threads) + _JOIN, steps)
        work = select(few, const(each * slow + splitting(flatten(spec))), work)
    return total * (reduced * work + stored), steps


def _states(stage: KernelSpec) -> tuple[str, ...]:
    return stage.combiner.dtypes if stage.combiner is not None else ()


def _moved(tiles: TileSpec) -> tuple[Expr, tuple[Operand, ...]]:
    """Bytes that a task reads from outside, and what the kernel moves."""
    total: Expr = const(0)
    used: dict[Value, set[str]] = {}
    still: dict[Value, int] = {}
    for stage in tiles.stages:
        for access in stage.spec.reads:
            value = access.value
            if value in tiles.boxes:
                continue
            box = box_of(access, stage.spec, stage.domain)
            if value not in used:
                total = total + product([x.size for x in box]) * dtypes.size_of(value.dtype)
            used.setdefault(value, set()).update(axis for x in box for axis, _ in x.steps)
            rest = math.prod(int(x.size.value) for x in box if not x.steps and isinstance(x.size, Const))
            # Fragments for tensor cores are read element by element, each lane its own.
            still[value] = 1 if tensor_factors(stage.spec) else max(rest, still.get(value, 1))
    moving = {v: [x for x in tiles.axes if x.name in axes] for v, axes in used.items()}
    operands = [_operand(v, axes, min(still[v], _AHEAD)) for v, axes in moving.items()]
    operands += [_operand(v, list(tiles.axes), 0) for v in tiles.staged.outputs]
    return total, tuple(operands)


def _operand(value: Value, axes: list[Axis], rest: int) -> Operand:
    """What the tile's axes tell apart of a value; what windows and sums add to that is in the recipe's own formula.

    Args:
        rest: elements that each point of these axes reads, which count as one; 0 for a result.
    """
    along = axes[-1].name if axes else ""
    count = min(math.prod(value.static_shape()), points(axes))
    roles, size = tuple(x.name for x in axes), dtypes.size_of(value.dtype) * max(rest, 1)
    return Operand(value.name, size, count, roles, along, 1 if along else 0, 1, rest == 0)


CUDA, ROCM = on_gpus(NAME, match, 0, takes=StagedSpec)
